"""WHEN a feature is reused: a boolean mask [evaluations, blocks, 2], True = do not compute this cell.

Step 0 is the noisiest and is never cached. The cache ratio is by definition the mean of the mask.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from goc.caching.ratio import computed_at
from goc.models.network import BRANCHES

BRANCH_NAMES = ("attn", "mlp")  # as SmoothCache's files call them


def whole_steps(cached: Iterable[int], steps: int, depth: int) -> Tensor:
    """The mask [steps, depth, 2] that caches every cell of the listed steps."""
    mask = torch.zeros(steps, depth, BRANCHES, dtype=torch.bool)
    mask[list(cached)] = True
    return mask


def computing(computed: Iterable[int], steps: int, depth: int) -> Tensor:
    """The mask [steps, depth, 2] that computes every cell of the listed steps, and caches all others."""
    return whole_steps(sorted(set(range(steps)) - set(computed)), steps, depth)


def cache_ratio_of(mask: Tensor) -> float:
    """Share of cached cells in a mask [evaluations, blocks, 2]."""
    return mask.double().mean().item()


def cached_steps_of(mask: Tensor) -> list[int]:
    """Steps of a mask [evaluations, blocks, 2] in which every cell is cached."""
    return torch.nonzero(mask.flatten(1).all(dim=1)).flatten().tolist()


def computed_steps_of(mask: Tensor) -> list[int]:
    """Steps of a mask [evaluations, blocks, 2] in which no cell is cached."""
    return torch.nonzero(~mask.flatten(1).any(dim=1)).flatten().tolist()


def is_whole_steps(mask: Tensor) -> bool:
    """Whether every step of a mask [evaluations, blocks, 2] is cached or computed as a whole."""
    cells = mask.flatten(1)
    return bool((cells.all(dim=1) == cells.any(dim=1)).all())


def uniform(steps: int, depth: int, cache_ratio: float) -> Tensor:
    """Whole steps, evenly spread: the rule-based setting of the GOC paper (arXiv 2503.05156, section 4).

    K = round(cache_ratio * steps) steps are cached, cache_ratio in [0, 1). Up to one half, these are the first K odd
    steps; beyond it, the steps - K computed ones are floor(j * steps / (steps - K)). Step 0 is always computed.
    Returns the mask, bool [steps, depth, 2].
    """
    count = computed_at(cache_ratio, steps)
    if 2 * count >= steps:
        return whole_steps(range(1, 2 * (steps - count), 2), steps, depth)
    return computing((j * steps // count for j in range(count)), steps, depth)


def fora(steps: int, depth: int, interval: int) -> Tensor:
    """Every interval-th step is computed, counted from the last one (FORA, arXiv 2407.01425, section 3.2).

    Step i is computed iff i == 0 or (steps - 1 - i) % interval == 0; interval >= 1. Returns bool [steps, depth, 2].
    """
    cached = [i for i in range(1, steps) if (steps - 1 - i) % interval]
    return whole_steps(cached, steps, depth)


def toca_remainders(steps: int, interval: int, varied: bool = True) -> list[tuple[int, int]]:
    """What is left of s = T - 1 - i by the cycle, in block 0 and in the others, by step i; 0: computed whole.

    The cycle is interval, or varied by s (ToCa, arXiv 2410.05317): it is renewed when block 0 is computed whole, so
    that the others go by the new one in the same step already. From int(0.2 T) to int(0.4 T) it is 2, and elsewhere
    round(interval / (1 + w - 2 w s / T)), halves to even, with w = 0.4.
    """
    remainders, cycle, w = [], interval, 0.4
    for s in reversed(range(steps)):
        is_first = s == steps - 1
        left = 0 if is_first else s % cycle
        if left == 0 and varied:
            two = int(0.2 * steps) <= s < int(0.4 * steps)
            cycle = 2 if two else round(interval / (1 + w - 2 * w * s / steps))
        remainders.append((left, 0 if is_first else s % cycle))
    return remainders


def toca(steps: int, depth: int, interval: int, varied: bool = True) -> Tensor:
    """Steps whose number from the last is a multiple of a cycle are computed (ToCa, arXiv 2410.05317).

    interval, varied: as for `toca_remainders`. Returns bool [steps, depth, 2].
    """
    left = torch.tensor(toca_remainders(steps, interval, varied)) != 0  # [steps, block 0 or others]
    return left[:, [0] + [1] * (depth - 1), None].repeat(1, 1, BRANCHES)


def duca_skipped(steps: int, interval: int, varied: bool = True) -> list[int]:
    """Steps of ToCa's in which nothing is computed: every second one of a cycle (DuCa, arXiv 2412.18911)."""
    return [i for i, (_, left) in enumerate(toca_remainders(steps, interval, varied)) if left and left % 2 == 0]


def taylorseer(steps: int, depth: int, interval: int) -> Tensor:
    """Steps 0 and 1 are computed, then one step after every interval - 1 cached ones (TaylorSeer, arXiv 2503.06923).

    interval >= 1. Returns bool [steps, depth, 2].
    """
    return whole_steps([i for i in range(2, steps) if (i - 1) % interval], steps, depth)


def l2c(probabilities: Tensor, threshold: float) -> Tensor:
    """Cells that a learned router gives up (Learning-to-Cache, arXiv 2406.01733): bool [steps, depth, 2].

    probabilities: float [steps, depth, 2], indexed by the authors' router number r = steps - 1 - i. A cell of an odd
    step i is cached iff its probability is at most the threshold; even steps are computed.
    """
    mask = probabilities.flip(0) <= threshold
    mask[::2] = False
    return mask


def smoothcache(computed: Mapping[str, Sequence[int]], depth: int) -> Tensor:
    """A published SmoothCache schedule (arXiv 2411.10510): bool [steps, depth, 2].

    computed: 1 = computed, by step, for each block and branch ("attn-0", "mlp-0", ...) or for each branch of all blocks
    ("attn", "mlp"). Raises ValueError for other keys or values, unequal lengths, or a cached first step.
    """
    if not isinstance(computed, Mapping):
        raise ValueError("must be rows of 0 and 1 by their names")
    per_block = {f"{branch}-{block}" for branch in BRANCH_NAMES for block in range(depth)}
    if set(computed) == set(BRANCH_NAMES):
        rows = [[computed[branch] for branch in BRANCH_NAMES]] * depth
    elif set(computed) == per_block:
        rows = [[computed[f"{branch}-{block}"] for branch in BRANCH_NAMES] for block in range(depth)]
    else:
        raise ValueError(f"has {len(computed)} rows; must be attn and mlp, or attn-0 .. mlp-{depth - 1}")
    cells = [row for pair in rows for row in pair]
    if not all(isinstance(row, list) and row and all(type(cell) is int and cell in (0, 1) for cell in row)
               for row in cells):  # fmt: skip
        raise ValueError("has a row that is not a list of 0 and 1")
    if len({len(row) for row in cells}) != 1:
        raise ValueError("has rows of different lengths")
    mask = torch.tensor(rows).permute(2, 0, 1) == 0
    if mask[0].any():
        raise ValueError("caches step 0, before which there is nothing to reuse")
    return mask


def smoothcache_from_errors(errors: Tensor, threshold: float, depth: int) -> Tensor:
    """SmoothCache's schedule from its calibration (arXiv 2411.10510, section 3.2): bool [steps, depth, 2].

    errors: float [steps, lookahead, 2], the relative L1 error of reusing, in step i, the feature of k = 1..lookahead
    steps before. After each computed step a branch is reused as long as its error stays below the threshold, at most
    lookahead steps.
    """
    steps, lookahead, branches = errors.shape
    mask = torch.zeros(steps, depth, branches, dtype=torch.bool)
    for branch in range(branches):
        age = 0  # steps since the branch was last computed
        for step in range(1, steps):
            reused = age < lookahead and bool(errors[step, age, branch] < threshold)
            mask[step, :, branch] = reused
            age = age + 1 if reused else 0
    return mask


def teacache(changes: Tensor, threshold: float) -> Tensor:
    """Whole steps that TeaCache (arXiv 2411.19108, section 3.3) skips, given how the input changes.

    changes: float [evaluations], the relative L1 change of the first block's modulated input since the step before.
    They are summed since the last computed step; a step is skipped while the sum is below the threshold, the first and
    the last step never. Returns bool [evaluations, 1, 1].
    """
    steps, total = len(changes), 0.0
    skipped = []
    for step in range(1, steps):
        total += float(changes[step])
        if step < steps - 1 and total < threshold:
            skipped.append(step)
        else:
            total = 0.0
    return whole_steps(skipped, steps, 1)[:, :, :1]


def magcache(ratios: Tensor, threshold: float, max_skips: int, retention: float) -> Tensor:
    """Whole steps that MagCache (arXiv 2506.09045) skips, given how magnitudes change: bool [evaluations, 1, 1].

    ratios: float [steps], the magnitude of what the blocks add, against the step before. Their product since the last
    computed step is the magnitude against what would be reused; its distances from 1 are summed. A step is skipped
    while the sum is at most the threshold, at most max_skips in a row, none of the first int(retention * steps + 0.5).
    """
    steps, skipped = len(ratios), []
    product, error, skips = 1.0, 0.0, 0
    for step in range(max(1, int(retention * steps + 0.5)), steps):
        product *= float(ratios[step])
        error += abs(1.0 - product)
        if error <= threshold and skips < max_skips:
            skipped.append(step)
            skips += 1
        else:
            product, error, skips = 1.0, 0.0, 0
    return whole_steps(skipped, steps, 1)[:, :, :1]


def magnitude_errors(ratios: Tensor) -> Tensor:
    """All sums that `magcache` compares with its threshold where a run of skipped steps may start anywhere."""
    return torch.cat([(1 - ratios[first:].cumprod(0)).abs().cumsum(0) for first in range(1, len(ratios))])
