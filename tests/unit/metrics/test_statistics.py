import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_isc import isc_features_to_metric

from goc.metrics.statistics import Moments, gather, inception_score, moments

cuts = st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=12)  # sizes of batches


@settings(max_examples=40)
@given(sizes=cuts.filter(lambda sizes: sum(sizes) > 1), offset=st.sampled_from([0.0, 1.0, -300.0, 1e4]))
def test_moments_of_batches_are_those_of_all_rows(sizes: list[int], offset: float) -> None:
    torch.manual_seed(sum(sizes))
    rows = offset + torch.randn(sum(sizes), 5) * torch.tensor([1.0, 0.1, 3.0, 0.0, 1.0])
    merged = moments(rows.split(sizes))
    everything = rows.double().numpy()
    scale = np.cov(everything, rowvar=False).max()
    np.testing.assert_allclose(merged.mu, everything.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.sigma, np.cov(everything, rowvar=False), rtol=1e-9, atol=1e-10 * scale)


def test_moments_do_not_cancel_far_from_zero() -> None:
    # sum x x^T - n mu mu^T would keep 4 digits of this variance
    rows = 1e6 + torch.randn(4000, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    merged = moments(rows.split(64))
    np.testing.assert_allclose(merged.sigma, np.cov((rows - 1e6).numpy(), rowvar=False), rtol=1e-8, atol=1e-10)


def test_moments_leave_the_batch_as_it_is() -> None:
    batch = torch.ones(3, 2, dtype=torch.double)
    Moments(2).add(batch)
    assert batch.equal(torch.ones(3, 2, dtype=torch.double))


@settings(max_examples=40)
@given(sizes=cuts, splits=st.integers(min_value=1, max_value=10))
def test_inception_score_of_batches_is_torch_fidelitys(sizes: list[int], splits: int) -> None:
    count = sum(sizes)
    splits = min(splits, count)
    logits = 3 * torch.randn(count, 7, generator=torch.Generator().manual_seed(count))
    theirs = isc_features_to_metric(logits, splits=splits)
    mean, deviation = inception_score(logits.split(sizes), count, splits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-6, abs=1e-12)


@settings(max_examples=40)
@given(sizes=cuts, data=st.data())
def test_gather_picks_rows_in_the_order_asked_for(sizes: list[int], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(min_value=0, max_value=sum(sizes) - 1), min_size=1)))
    everything = torch.arange(2.0 * sum(sizes)).view(-1, 2)
    assert gather(everything.split(sizes), rows).equal(everything[torch.from_numpy(rows)])
