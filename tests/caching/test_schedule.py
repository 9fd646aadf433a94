import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goc.caching.schedule import cache_ratio_of, cached_steps_of, closest_interval, fora, uniform, whole_steps


@pytest.mark.parametrize(
    ("steps", "cache_ratio", "cached"),
    [
        (20, 0.0, []),
        (20, 0.25, [1, 3, 5, 7, 9]),
        (20, 0.5, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]),
        (20, 0.75, [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19]),
        (50, 0.5, list(range(1, 50, 2))),
        (7, 0.5, [1, 3, 5, 6]),  # round(3.5) = 4 of 7: the computed steps are floor(j * 7 / 3)
    ],
)
def test_uniform_caches_the_published_steps(steps: int, cache_ratio: float, cached: list[int]) -> None:
    assert cached_steps_of(uniform(steps, 4, cache_ratio)) == cached


@given(st.integers(2, 120), st.floats(0, 1, exclude_max=True))
def test_uniform_never_caches_the_first_step_and_comes_closest_to_the_ratio(steps: int, cache_ratio: float) -> None:
    mask = uniform(steps, 2, cache_ratio)
    assert mask.shape == (steps, 2, 2)
    assert not mask[0].any()
    closest = min(range(steps), key=lambda count: abs(count / steps - cache_ratio))
    assert abs(cache_ratio_of(mask) - cache_ratio) == pytest.approx(abs(closest / steps - cache_ratio))


def test_cache_ratio_is_the_mean_of_the_mask() -> None:
    mask = whole_steps([2], steps=4, depth=3)
    mask[3, 0, 1] = True
    assert cache_ratio_of(mask) == 7 / 24
    assert cached_steps_of(mask) == [2]
    assert mask.dtype == torch.bool


def test_fora_counts_its_interval_from_the_last_step() -> None:
    assert cached_steps_of(fora(8, 2, 3)) == [2, 3, 5, 6]  # 0 and 7, 4, 1 are computed
    assert cached_steps_of(fora(20, 2, 2)) == list(range(2, 20, 2))


@given(st.integers(2, 60), st.integers(1, 60))
def test_fora_computes_the_first_and_the_last_step_and_at_most_interval_minus_one_steps_lie_between(
    steps: int, interval: int
) -> None:
    mask = fora(steps, 1, interval)
    computed = [step for step in range(steps) if step not in cached_steps_of(mask)]
    assert {0, steps - 1} <= set(computed)
    gaps = [later - earlier for earlier, later in itertools.pairwise(computed)]
    assert all(gap == interval for gap in gaps[1:])
    assert gaps[0] <= interval


def test_the_interval_closest_to_a_ratio_is_found() -> None:
    ratios = {n: cache_ratio_of(fora(50, 1, n)) for n in range(1, 51)}
    for target in (0.0, 0.45, 0.5, 0.66, 0.75, 0.9):
        interval = closest_interval(lambda n: fora(50, 1, n), 50, target)
        assert abs(ratios[interval] - target) == min(abs(ratio - target) for ratio in ratios.values())
