"""WHEN a feature is reused: a boolean mask [steps, blocks, 2], True = do not compute this cell.

Step 0 is the noisiest and is never cached. The cache ratio is by definition the mean of the mask.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from goc.models.dit import BRANCHES


def whole_steps(cached: Iterable[int], steps: int, depth: int) -> Tensor:
    """The mask [steps, depth, 2] that caches every cell of the listed steps."""
    mask = torch.zeros(steps, depth, BRANCHES, dtype=torch.bool)
    mask[list(cached)] = True
    return mask


def cache_ratio_of(mask: Tensor) -> float:
    """Share of cached cells in a mask [steps, blocks, 2]."""
    return mask.double().mean().item()


def cached_steps_of(mask: Tensor) -> list[int]:
    """Steps of a mask [steps, blocks, 2] in which every cell is cached."""
    return torch.nonzero(mask.flatten(1).all(dim=1)).flatten().tolist()


def uniform(steps: int, depth: int, cache_ratio: float) -> Tensor:
    """Whole steps, evenly spread: the rule-based setting of the GOC paper (arXiv 2503.05156, section 4).

    K = round(cache_ratio * steps) steps are cached, cache_ratio in [0, 1). Up to one half, these are the first K odd
    steps; beyond it, the steps - K computed ones are floor(j * steps / (steps - K)). Step 0 is always computed.
    Returns the mask, bool [steps, depth, 2].
    """
    count = min(round(cache_ratio * steps), steps - 1)
    if 2 * count <= steps:
        return whole_steps(range(1, 2 * count, 2), steps, depth)
    computed = {j * steps // (steps - count) for j in range(steps - count)}
    return whole_steps(sorted(set(range(steps)) - computed), steps, depth)


def fora(steps: int, depth: int, interval: int) -> Tensor:
    """Every interval-th step is computed, counted from the last one (FORA, arXiv 2407.01425, section 3.2).

    Step i is computed iff i == 0 or (steps - 1 - i) % interval == 0; interval >= 1. Returns bool [steps, depth, 2].
    """
    cached = [i for i in range(1, steps) if (steps - 1 - i) % interval]
    return whole_steps(cached, steps, depth)


def closest_interval(schedule: Callable[[int], Tensor], steps: int, cache_ratio: float) -> int:
    """The interval 1..steps whose mask schedule(interval) comes closest to cache_ratio; the smaller one of two."""
    return min(range(1, steps + 1), key=lambda interval: abs(cache_ratio_of(schedule(interval)) - cache_ratio))
