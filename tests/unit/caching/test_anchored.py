"""Predictions from computed features alone, against their definition with the whole history at hand."""

import pytest
import torch
from cells import CELL, masks, one_cell, products_of, used_values, weight_lists
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goc.caching.anchored import AnchoredQueue, Barycentric, Causal, Learned, fit_causal
from goc.caching.cache import ScheduledCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue, Reuse
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


def published_weights(now: int, computed: list[int], decay: float = 1.0) -> Tensor:
    """ChebBooster's equations 8 and 9 with its times in [-1, 1], oldest first; decay as in BaryCache's code."""
    first, last = computed[0], computed[-1]
    times = torch.tensor([2 * (step - first) / (last - first) - 1 for step in [*computed, now]], dtype=torch.float64)
    rho = torch.tensor([(-1.0) ** j for j in range(len(computed))], dtype=torch.float64)
    rho[[0, -1]] /= 2
    shares = rho / (times[-1] - times[:-1])
    shares = shares.sign() * shares.abs() ** decay
    return shares / shares.sum()


@pytest.mark.parametrize("decay", [1.0, 0.75])
@pytest.mark.parametrize("computed", [[0, 1], [0, 1, 5], [0, 4, 8], [0, 4, 5, 6], [0, 1, 2, 9]])
def test_chebyshev_weights_are_the_published_ones(computed: list[int], decay: float) -> None:
    cached = [step not in computed for step in range(12)]
    rows = linear_weights(Barycentric(one_cell(cached), len(computed), "chebyshev", decay), [*cached])
    for step in range(computed[-1] + 1, 12):
        torch.testing.assert_close(rows[step, computed], published_weights(step, computed, decay))


@given(masks, st.integers(1, 4), st.sampled_from(["chebyshev", "lagrange"]))
def test_barycentric_weights_sum_to_one_and_are_reuse_with_one_feature(
    cached: list[bool], length: int, rho: str
) -> None:
    mask = one_cell(cached)
    rows = linear_weights(Barycentric(mask, length, rho), cached)
    for row, is_cached in zip(rows, cached, strict=True):
        if is_cached and row.isfinite().all():
            assert row.sum() == pytest.approx(1.0, abs=1e-9 * float(row.abs().max()))
            assert int((row != 0).sum()) <= length
    if length == 1:
        assert torch.equal(rows, linear_weights(Reuse(mask), cached))


@given(masks, st.integers(1, 4), st.lists(st.integers(-3, 3), min_size=1, max_size=4))
def test_lagrange_weights_are_exact_on_polynomials_of_their_degree(
    tail: list[bool], length: int, polynomial: list[int]
) -> None:
    mask = one_cell([False] * length + tail[1:])
    steps = torch.arange(len(mask), dtype=torch.float64)
    features = sum((factor * steps**k for k, factor in enumerate(polynomial[:length])), torch.zeros(1))[:, None]
    for value, feature in zip(
        used_values(Barycentric(mask, length, "lagrange"), mask, features), features, strict=True
    ):
        torch.testing.assert_close(value, feature, rtol=1e-6, atol=1e-6)


@given(masks, st.integers(2, 5))
def test_chebyshev_weights_are_exact_on_lines(tail: list[bool], length: int) -> None:
    cached = [False, False, *tail[1:]]
    rows = linear_weights(Barycentric(one_cell(cached), length, "chebyshev"), cached)
    steps = torch.arange(len(cached), dtype=torch.float64)
    for row, step, is_cached in zip(rows, steps, cached, strict=True):
        if is_cached and row.abs().max() < 1e3:  # away from poles
            torch.testing.assert_close(row @ (3 * steps - 5), 3 * step - 5)


def test_they_are_the_parabola_through_three_equidistant_features_alone() -> None:
    def rows(rho: str, computed: list[int]) -> Tensor:
        cached = [step not in computed for step in range(12)]
        return linear_weights(Barycentric(one_cell(cached), len(computed), rho), cached)[computed[-1] + 1 :]

    torch.testing.assert_close(rows("chebyshev", [0, 4, 8]), rows("lagrange", [0, 4, 8]))
    for others in ([0, 1, 5], [0, 3, 6, 9]):
        assert ((rows("chebyshev", others) - rows("lagrange", others)).abs().sum(dim=1) > 0.1).all()


def test_at_a_pole_the_weights_are_infinite() -> None:
    cached = [False, True, True, False, False, True, True]  # 1/2 / 2 - 1 / 3 + 1/2 / 6 = 0
    rows = linear_weights(Barycentric(one_cell(cached), 3, "chebyshev"), cached)
    assert rows[5].isfinite().all()
    assert not rows[6].isfinite().any()


@given(masks)
def test_weights_on_all_values_before_are_applied_to_predictions_too(cached: list[bool]) -> None:
    mask, features = one_cell(cached), torch.randn(len(cached), 3, dtype=torch.float64)
    weights = torch.randn(len(cached), len(cached), dtype=torch.float64)
    values = used_values(Causal(mask, weights), mask, features)
    for step, is_cached in enumerate(cached):
        if is_cached:
            torch.testing.assert_close(values[step], weights[step, :step] @ torch.stack(values[:step]))


@given(masks)
def test_before_they_are_fitted_weights_on_all_values_are_reuse(cached: list[bool]) -> None:
    mask = one_cell(cached)
    weights = fit_causal(torch.eye(len(cached), dtype=torch.float64)[..., None, None], iterations=0)
    assert torch.equal(linear_weights(Causal(mask, weights), cached), linear_weights(Reuse(mask), cached))


def test_fitted_weights_predict_the_features_that_they_were_fitted_to_as_least_squares_does() -> None:
    """And each iteration counts: as many as published are between reuse and that."""
    features = torch.randn(6, 2, 40, generator=torch.Generator().manual_seed(0)).double().cumsum(0).cumsum(0)
    flat = features.flatten(1)

    def error(weights: Tensor) -> float:
        return (weights @ flat - flat)[1:].square().sum().item()

    products = products_of(features)
    reuse, published, long = (error(fit_causal(products, iterations)) for iterations in (0, 201, 20_000))
    solutions = [torch.linalg.lstsq(flat[:i].T, flat[i][:, None]).solution.T for i in range(1, 6)]
    least = sum(
        (solved @ flat[: len(solved[0])] - flat[i]).square().sum().item() for i, solved in enumerate(solutions, 1)
    )
    assert least < published < 0.5 * reuse
    assert long == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize(("predictor", "tensors"), [
    (lambda mask: Barycentric(mask, 3, "chebyshev"), 3),
    (lambda mask: Barycentric(mask, 2, "lagrange"), 2),
    (lambda mask: Causal(mask, torch.eye(20)), 5),  # all that are computed
])  # fmt: skip
def test_what_linear_weights_hold_is_counted(predictor, tensors: int) -> None:
    mask = uniform(20, 2, 0.75)
    cache = ScheduledCache(mask, predictor(mask))
    for step in range(20):
        cache.begin_step(step)
        for cell in ((block, branch) for block in range(2) for branch in range(2)):
            if cache.lookup(*cell) is None:
                cache.store(*cell, torch.randn(2, 4, 8))
    assert cache.peak_cache_tensors == tensors * 4
    assert not cache.predictor.held()
