"""The setting of a schedule, an interval or a threshold, that comes closest to a cache ratio."""

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from goc.caching.schedule import cache_ratio_of, teacache
from goc.system.errors import GocError


def closest_interval(schedule: Callable[[int], Tensor], steps: int, cache_ratio: float) -> int:
    """The interval 1..steps whose mask schedule(interval) comes closest to cache_ratio; the smaller one of two."""
    return min(range(1, steps + 1), key=lambda interval: abs(cache_ratio_of(schedule(interval)) - cache_ratio))


def closest_threshold(schedule: Callable[[float], Tensor], values: Tensor, cache_ratio: float) -> float:
    """The threshold at which schedule(threshold) comes closest to cache_ratio, found by bisection.

    values: the numbers that thresholds are compared with; more cells are cached as the threshold grows. Raises GocError
    if none of them is finite.
    """
    candidates = torch.unique(values[values.isfinite()]).tolist()
    if not candidates:
        raise GocError("schedule.threshold=null: no threshold can be found, as nothing that was measured is finite")
    # thresholds between neighbouring values, and beyond both ends
    candidates = [candidates[0] - 1.0, *(sum(pair) / 2 for pair in pairwise(candidates)), candidates[-1] + 1.0]

    def ratio(candidate: float) -> float:
        return cache_ratio_of(schedule(candidate))

    above = bisect_left(candidates, cache_ratio, hi=len(candidates) - 1, key=ratio)
    return min(candidates[max(above - 1, 0) : above + 1], key=lambda candidate: abs(ratio(candidate) - cache_ratio))


def closest_teacache(changes: Tensor, cache_ratio: float) -> float:
    """TeaCache's threshold that comes closest to cache_ratio where the input changes by changes[i] [steps]."""
    totals = torch.cat([changes[first:].cumsum(0) for first in range(1, len(changes))])
    return closest_threshold(lambda value: teacache(changes, value), totals, cache_ratio)
