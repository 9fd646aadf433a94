"""The predictors against the definition of the method, written out with every value kept."""

import itertools

import pytest
import torch
from cells import CELL, masks, one_cell, used_values, weight_lists
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goc.caching.cache import ScheduledCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue, Reuse, evaluate
from goc.caching.schedule import uniform


def defined_values(mask: Tensor, features: Tensor, weights: list[float], correct: Tensor) -> list[Tensor]:
    """The same by the definition of the gradient queue, with the whole history at hand."""
    used: list[Tensor] = []
    for step, feature in enumerate(features):
        if mask[step, 0, 0]:
            history = used[::-1]
            gradients = [newer - older for newer, older in itertools.pairwise(history)]
            correction = sum((w * g for w, g in zip(weights, gradients, strict=False)), torch.zeros(()))
            used.append(history[0] + (correction if correct[step, 0, 0] else 0))
        else:
            used.append(feature)
    return used


@given(masks, weight_lists, st.randoms(use_true_random=False))
def test_gradient_queue_is_its_definition(cached: list[bool], weights: list[float], random) -> None:
    mask = one_cell(cached)
    correct = one_cell([random.random() < 0.7 for _ in cached])
    features = torch.randn(len(cached), 3, generator=torch.Generator().manual_seed(random.randrange(1000))).double()
    values = used_values(GradientQueue(mask, weights, correct), mask, features)
    for value, expected in zip(values, defined_values(mask, features, weights, correct), strict=True):
        torch.testing.assert_close(value, expected)


@given(masks)
def test_gradient_queue_equals_reuse_when_weights_are_zero(cached: list[bool]) -> None:
    mask = one_cell(cached)
    features = torch.randn(len(cached), 3)
    queued = used_values(GradientQueue(mask, [0.0, 0.0]), mask, features)
    reused = used_values(Reuse(mask), mask, features)
    assert all(torch.equal(a, b) for a, b in zip(queued, reused, strict=True))


@given(st.lists(st.booleans(), max_size=12), st.floats(-5, 5), st.floats(-5, 5))
def test_a_feature_linear_in_the_step_is_predicted_exactly_with_weight_one(
    tail: list[bool], start: float, slope: float
) -> None:
    mask = one_cell([False, False, *tail])  # two computed steps make the first gradient
    features = start + slope * torch.arange(len(mask), dtype=torch.float64)[:, None]
    for value, feature in zip(used_values(GradientQueue(mask, [1.0]), mask, features), features, strict=True):
        torch.testing.assert_close(value, feature)


@pytest.mark.parametrize("predictor", [Reuse, lambda mask: GradientQueue(mask, [1.2])])
def test_one_tensor_a_cell_is_enough_for_interval_two(predictor) -> None:
    mask = uniform(20, 1, 0.5)[:, :, :1]
    cache = ScheduledCache(mask, predictor(mask))
    for step in range(20):
        cache.begin_step(step)
        if cache.lookup(*CELL) is None:
            cache.store(*CELL, torch.randn(2, 4, 8))
    assert cache.peak_cache_tensors == 1
    assert cache.peak_cache_bytes == 2 * 4 * 8 * 4
    assert not cache.predictor.held()


@given(masks, weight_lists)
def test_nothing_is_held_after_the_last_cached_step(cached: list[bool], weights: list[float]) -> None:
    mask = one_cell(cached)
    last = max((step for step, is_cached in enumerate(cached) if is_cached), default=-1)
    for predictor in (GradientQueue(mask, weights), Reuse(mask), Taylor(mask, 2)):
        for step in range(len(cached)):
            if mask[step, 0, 0]:
                predictor.predict(step, CELL)
            else:
                predictor.store(step, CELL, torch.zeros(1))
            if step >= last:
                assert not predictor.held()


@given(masks, weight_lists, st.integers(0, 3))
def test_a_prediction_is_made_of_tensors_that_are_held_already_each_once(
    cached: list[bool], weights: list[float], order: int
) -> None:
    mask = one_cell(cached)
    for predictor in (GradientQueue(mask, weights), Reuse(mask), Taylor(mask, order)):
        for step in range(len(cached)):
            if mask[step, 0, 0]:
                held = [id(tensor) for tensor in predictor.held()]
                used = [id(tensor) for _, tensor in predictor.predict(step, CELL)]
                assert len(set(used)) == len(used)
                assert set(used) <= set(held)
            else:
                predictor.store(step, CELL, torch.randn(2))


def test_the_correction_of_interval_two_is_applied_in_place_of_the_stored_feature() -> None:
    mask = uniform(6, 1, 0.5)[:, :, :1]
    queue, feature = GradientQueue(mask, [1.2]), torch.empty(0)
    for step in range(6):
        if mask[step, 0, 0]:
            ((coefficient, tensor),) = queue.predict(step, CELL)
            assert (coefficient, tensor.data_ptr()) == (1.0, feature.data_ptr())
        else:
            feature = torch.randn(3)
            queue.store(step, CELL, feature)


@pytest.mark.parametrize(("tensors", "steps"), [(2, [4, 5, 6, 7]), (3, [4, 5])])
def test_a_long_cached_run_holds_no_more_than_the_queue_is_long(tensors: int, steps: list[int]) -> None:
    """With m weights, m + 1 tensors give all predictions, however many steps are cached."""
    mask = one_cell([step in steps for step in range(10)])
    queue = GradientQueue(mask, [1.0, 0.5][: tensors - 1])
    for step in range(10):
        if mask[step, 0, 0]:
            queue.predict(step, CELL)
        else:
            queue.store(step, CELL, torch.randn(3))
        assert len(queue.held()) <= tensors


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=4), st.integers(0, 3), st.booleans())
def test_terms_are_summed_the_same_in_place_and_apart(coefficients: list[float], place: int, affine: bool) -> None:
    if affine:  # summed in one pass when there are two
        coefficients = [*coefficients[1:], 1 - sum(coefficients[1:])]
    tensors = [torch.randn(3, dtype=torch.float64) for _ in coefficients]
    terms = list(zip(coefficients, tensors, strict=True))
    expected = sum((c * tensor for c, tensor in terms), torch.zeros(3, dtype=torch.float64))
    before = [tensor.clone() for tensor in tensors]
    torch.testing.assert_close(evaluate(terms), expected)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    out = tensors[place % len(tensors)]
    assert evaluate(terms, out) is out
    torch.testing.assert_close(out, expected)
    others = [tensor for tensor in tensors if tensor is not out]
    assert all(any(torch.equal(tensor, b) for b in before) for tensor in others)


def test_values_are_held_only_as_long_as_a_later_prediction_needs_them() -> None:
    # with two weights, the prediction of step 5 needs the values of steps 4, 3 and 2, and nothing older
    mask = one_cell([False, False, False, False, False, True, False])
    predictor = GradientQueue(mask, [1.0, 0.5])
    held = []
    for step in range(len(mask)):
        if mask[step, 0, 0]:
            predictor.predict(step, CELL)
        else:
            predictor.store(step, CELL, torch.full((1,), float(step)))
        held.append(len(predictor.held()))
    assert held == [0, 0, 1, 2, 1, 0, 0]


clocks = st.lists(st.floats(0.1, 3), min_size=16, max_size=16).map(lambda gaps: list(itertools.accumulate(gaps)))


@given(st.lists(st.booleans(), max_size=12), clocks, st.floats(-5, 5), st.floats(-5, 5))
def test_a_feature_linear_in_the_clock_is_predicted_exactly_by_the_gradient_queue_and_by_taylor(
    tail: list[bool], clock: list[float], start: float, slope: float
) -> None:
    mask = one_cell([False, False, *tail])
    features = torch.tensor([[start + slope * now] for now in clock[: len(mask)]], dtype=torch.float64)
    for predictor in (GradientQueue(mask, [1.0], clock=clock), Taylor(mask, 1, clock)):
        for value, feature in zip(used_values(predictor, mask, features), features, strict=True):
            torch.testing.assert_close(value, feature, rtol=1e-6, atol=1e-6)


def test_a_steady_clock_is_the_step_index() -> None:
    mask = uniform(12, 1, 0.75)[:, :, :1]
    features, clock = torch.randn(12, 3).double(), [3.0 + 0.5 * step for step in range(12)]
    for make in (lambda clock: GradientQueue(mask, [0.8, 0.3], clock=clock), lambda clock: Taylor(mask, 1, clock)):
        steady, indexed = (used_values(make(c), mask, features) for c in (clock, None))
        for a, b in zip(steady, indexed, strict=True):
            torch.testing.assert_close(a, b)


def test_taylor_is_its_definition() -> None:
    """By hand, computed steps 0, 1, 3, 6 and order 2: the expansion around step 6 at step 8."""
    mask = one_cell([False, False, True, False, True, True, False, True, True])
    f = torch.randn(9, 2).double()
    first = [f[1] - f[0], (f[3] - f[1]) / 2, (f[6] - f[3]) / 3]
    second = [(first[1] - first[0]) / 2, (first[2] - first[1]) / 3]
    values = used_values(Taylor(mask, 2), mask, f)
    torch.testing.assert_close(values[2], f[1] + first[0])
    torch.testing.assert_close(values[4], f[3] + first[1] + second[0] / 2)
    torch.testing.assert_close(values[8], f[6] + 2 * first[2] + 4 * second[1] / 2)


@given(masks)
def test_taylor_of_order_zero_is_reuse(cached: list[bool]) -> None:
    mask = one_cell(cached)
    features = torch.randn(len(cached), 3)
    pairs = zip(used_values(Taylor(mask, 0), mask, features), used_values(Reuse(mask), mask, features), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@st.composite
def clocks_with_ties(draw: st.DrawFn) -> tuple[list[bool], list[float], list[float]]:
    """A schedule, weights, and a clock that stands still in some steps, as in a solver's second evaluation."""
    cached, weights = draw(masks), draw(weight_lists)
    moves = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=len(cached) - 1, max_size=len(cached) - 1))
    return cached, weights, list(itertools.accumulate(moves, initial=-2.0))


@given(clocks_with_ties())
def test_of_two_values_at_one_time_the_gradient_queue_knows_the_newer(
    case: tuple[list[bool], list[float], list[float]],
) -> None:
    cached, weights, clock = case
    mask = one_cell(cached)
    features = torch.randn(len(cached), 3, generator=torch.Generator().manual_seed(3)).double()
    used: list[Tensor] = []
    for step, feature in enumerate(features):
        history = {clock[earlier]: used[earlier] for earlier in range(step)}  # the newer of each time, oldest first
        times = sorted(history, reverse=True)
        if not cached[step]:
            used.append(feature)
            continue
        value = history[times[0]].clone()
        for weight, (now, before) in zip(weights, itertools.pairwise(times), strict=False):
            value += weight * (history[now] - history[before]) * (clock[step] - times[0]) / (now - before)
        used.append(value)
    values = used_values(GradientQueue(mask, weights, clock=clock), mask, features)
    for value, expected in zip(values, used, strict=True):
        torch.testing.assert_close(value, expected)


@given(clocks_with_ties(), st.integers(0, 3))
def test_of_two_features_at_one_time_taylor_expands_about_the_newer(
    case: tuple[list[bool], list[float], list[float]], order: int
) -> None:
    cached, _, clock = case
    mask = one_cell(cached)
    features = torch.tensor([[3.0 - 2.0 * now] for now in clock], dtype=torch.float64)  # linear in the clock
    values = used_values(Taylor(mask, order, clock), mask, features)
    computed: list[float] = []
    for step, value in enumerate(values):
        known = len(set(computed)) > 1 if order else False
        if not cached[step] or known or (computed and computed[-1] == clock[step]):
            torch.testing.assert_close(value, features[step])
        assert torch.isfinite(value).all()
        computed += [] if cached[step] else [clock[step]]
