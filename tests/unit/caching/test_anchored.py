"""Predictions from computed features alone, against their definition with the whole history at hand."""

import pytest
import torch
from cells import CELL, masks, one_cell, used_values, weight_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from goc.caching.anchored import AnchoredQueue, Learned
from goc.caching.cache import ScheduledCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue
from goc.caching.schedule import uniform
from goc.caching.stability import linear_weights


def defined(mask: Tensor, features: Tensor, weights: list[float], correct: Tensor, clock: list[float]) -> list[Tensor]:
    """The anchored queue by its definition."""
    values, computed = [], list[int]()
    for step, feature in enumerate(features):
        if not mask[step, 0, 0]:
            if computed and clock[computed[0]] == clock[step]:
                computed = computed[1:]
            computed = [step, *computed]
            values.append(feature)
            continue
        value = features[computed[0]].clone()
        if correct[step, 0, 0]:
            for j, weight in enumerate(weights[: len(computed) - 1]):
                newer, older = computed[j], computed[j + 1]
                gradient = (features[newer] - features[older]) / (clock[newer] - clock[older])
                value += weight * gradient * (clock[step] - clock[computed[0]])
        values.append(value)
    return values


@given(masks, weight_lists, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_anchored_queue_is_its_definition_on_any_clock(cached: list[bool], weights: list[float], random) -> None:
    mask = one_cell(cached)
    correct = one_cell([random.random() < 0.7 for _ in cached])
    clock = torch.tensor([random.choice([0.0, 0.5, 1.0, 3.0]) for _ in cached]).cumsum(0).tolist()  # times may be equal
    features = torch.randn(len(cached), 3, generator=torch.Generator().manual_seed(random.randrange(1000))).double()
    values = used_values(AnchoredQueue(mask, weights, correct, clock), mask, features)
    for value, expected in zip(values, defined(mask, features, weights, correct, clock), strict=True):
        torch.testing.assert_close(value, expected)


@given(masks, st.floats(-5, 5), st.floats(-5, 5))
def test_a_linear_feature_is_predicted_exactly_at_any_distance_with_weight_one(
    tail: list[bool], start: float, slope: float
) -> None:
    mask = one_cell([False, False, *tail])
    features = start + slope * torch.arange(len(mask), dtype=torch.float64)[:, None]
    for value, feature in zip(used_values(AnchoredQueue(mask, [1.0]), mask, features), features, strict=True):
        torch.testing.assert_close(value, feature)


def test_where_no_prediction_is_a_gradients_end_it_is_the_published_queue() -> None:
    mask = one_cell([False, False, True, False, False, True])
    features = torch.randn(6, 3, dtype=torch.float64)
    published = used_values(GradientQueue(mask, [0.7]), mask, features)
    anchored = used_values(AnchoredQueue(mask, [0.7]), mask, features)
    torch.testing.assert_close(anchored, published)


@given(masks, weight_lists)
def test_an_error_in_a_computed_value_ends_where_it_is_dropped(cached: list[bool], weights: list[float]) -> None:
    rows = linear_weights(AnchoredQueue(one_cell(cached), weights), cached)
    computed = list[int]()
    for step, is_cached in enumerate(cached):
        if not is_cached:
            computed = [step, *computed][: len(weights) + 1]
        else:
            assert set(torch.nonzero(rows[step]).flatten().tolist()) <= set(computed)
            assert rows[step].sum() == pytest.approx(1.0)  # a constant feature stays


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.8])
def test_one_weight_holds_two_tensors_a_cell_at_any_ratio(ratio: float) -> None:
    mask = uniform(20, 2, ratio)
    cache = ScheduledCache(mask, AnchoredQueue(mask, [1.0]))
    for step in range(20):
        cache.begin_step(step)
        for cell in ((block, branch) for block in range(2) for branch in range(2)):
            if cache.lookup(*cell) is None:
                cache.store(*cell, torch.randn(2, 4, 8))
    assert cache.peak_cache_tensors == 2 * 4
    assert not cache.predictor.held()


@given(masks, st.integers(1, 4))
def test_learned_weights_are_those_of_the_last_computed_features(cached: list[bool], length: int) -> None:
    mask, features = one_cell(cached), torch.randn(len(cached), 3)
    weights = torch.randn(len(cached), length)
    values, computed = used_values(Learned(mask, weights), mask, features), list[int]()
    for step, value in enumerate(values):
        if mask[step, 0, 0]:
            terms = zip(weights[step].tolist(), computed[:length], strict=False)
            torch.testing.assert_close(value, sum((w * features[i] for w, i in terms), torch.zeros(3)))
        else:
            computed = [step, *computed]


@given(masks, st.integers(0, 2))
def test_weights_read_off_a_linear_predictor_do_the_same(cached: list[bool], order: int) -> None:
    mask, features = one_cell(cached), torch.randn(len(cached), 3, dtype=torch.float64)
    rows = linear_weights(Taylor(mask, order), cached)
    for step, value in enumerate(used_values(Taylor(mask, order), mask, features)):
        if mask[step, 0, 0]:
            torch.testing.assert_close(value, rows[step] @ features)


def test_nothing_is_held_after_the_last_cached_step_and_predictions_are_of_held_tensors() -> None:
    cached = [False, False, True, False, True, True, False]
    for predictor in (AnchoredQueue(one_cell(cached), [1.0, 0.5]), Learned(one_cell(cached), torch.randn(7, 3))):
        for step, is_cached in enumerate(cached):
            if is_cached:
                held = {id(tensor) for tensor in predictor.held()}
                assert {id(tensor) for _, tensor in predictor.predict(step, CELL)} <= held
            else:
                predictor.store(step, CELL, torch.randn(2))
        assert not predictor.held()
