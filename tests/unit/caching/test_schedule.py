import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goc.caching.schedule import (
    cache_ratio_of,
    cached_steps_of,
    fora,
    is_whole_steps,
    l2c,
    smoothcache,
    smoothcache_from_errors,
    taylorseer,
    teacache,
    uniform,
    whole_steps,
)
from goc.methods.closest import closest_interval, closest_threshold


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


def test_taylorseer_computes_two_steps_then_one_after_every_interval_minus_one_cached() -> None:
    assert cached_steps_of(taylorseer(12, 2, 4)) == [2, 3, 4, 6, 7, 8, 10, 11]
    assert not taylorseer(12, 2, 1).any()


def test_l2c_caches_improbable_cells_of_odd_steps_and_counts_router_steps_from_the_last() -> None:
    probabilities = torch.ones(4, 2, 2)
    probabilities[0, 1, 0] = 0.1  # router step 0 is sampling step 3
    probabilities[1, :, :] = 0.0  # sampling step 2 is even: always computed
    probabilities[2, 0, 1] = 0.05
    mask = l2c(probabilities, 0.1)
    assert torch.nonzero(mask).tolist() == [[1, 0, 1], [3, 1, 0]]
    assert not is_whole_steps(mask)
    assert is_whole_steps(uniform(4, 2, 0.5))


def test_smoothcache_reads_both_published_forms() -> None:
    shared = smoothcache({"attn": [1, 0, 1], "mlp": [1, 0, 0]}, depth=2)
    assert torch.nonzero(shared).tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [2, 0, 1], [2, 1, 1]]
    by_block = smoothcache({"attn-0": [1, 0], "mlp-0": [1, 1], "attn-1": [1, 1], "mlp-1": [1, 0]}, depth=2)
    assert torch.nonzero(by_block).tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"attn": [1, 0]}, "must be attn and mlp, or attn-0 .. mlp-1"),
        ({"attn-0": [1], "mlp-0": [1]}, "must be attn and mlp, or attn-0 .. mlp-1"),
        ({"attn": [1, 0], "mlp": [1]}, "different lengths"),
        ({"attn": [0, 1], "mlp": [1, 1]}, "caches step 0"),
    ],
)
def test_a_wrong_smoothcache_file_says_what_is_wrong(rows: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smoothcache(rows, depth=2)


def test_teacache_skips_while_the_accumulated_change_is_below_the_threshold() -> None:
    changes = torch.tensor([0.0, 0.2, 0.2, 0.25, 0.06, 0.0, 1.1, 0.0])
    # sums 0.2, 0.4, 0.65: computed; 0.06, 0.06, 1.16: computed; and the last step always is
    assert cached_steps_of(teacache(changes, 0.5)) == [1, 2, 4, 5]
    assert cached_steps_of(teacache(changes, 0.0)) == []
    assert cached_steps_of(teacache(changes, 9.0)) == [1, 2, 3, 4, 5, 6]


def test_smoothcache_reuses_while_the_error_is_small_and_at_most_lookahead_steps() -> None:
    errors = torch.full((8, 2, 2), 0.1)
    errors[4, :, 0] = 0.9  # attention changes much in step 4
    mask = smoothcache_from_errors(errors, threshold=0.5, depth=3)
    assert torch.nonzero(mask[:, 0, 0]).flatten().tolist() == [1, 2, 5, 6]
    assert torch.nonzero(mask[:, 0, 1]).flatten().tolist() == [1, 2, 4, 5, 7]
    assert torch.equal(mask[:, 0], mask[:, 2])
    errors[2, 1, 0] = 0.9  # two steps back is too far in step 2: it is computed, and step 3 may reuse it
    assert torch.nonzero(smoothcache_from_errors(errors, 0.5, 1)[:, 0, 0]).flatten().tolist() == [1, 3, 5, 6]


@given(st.integers(0, 100), st.floats(0, 0.9))
def test_bisection_finds_the_threshold_closest_to_a_ratio(seed: int, target: float) -> None:
    probabilities = torch.rand(10, 3, 2, generator=torch.Generator().manual_seed(seed))
    ratio = cache_ratio_of(
        l2c(probabilities, closest_threshold(lambda t: l2c(probabilities, t), probabilities, target))
    )
    best = min(abs(cache_ratio_of(l2c(probabilities, t)) - target) for t in [-1.0, *probabilities.flatten().tolist()])
    assert abs(ratio - target) == pytest.approx(best)
