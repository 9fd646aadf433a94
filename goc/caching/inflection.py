"""Inflection-aware optimisation (GOC, arXiv 2503.05156, section 3.3): where the gradient points the wrong way.

An uncached calibration run (calibration.py) measures how well each step's change of a feature continues the change
before it; a step where it does not is an inflection.
"""

import math
from collections.abc import Sequence

import torch
from numpy import ndindex
from torch import Tensor


def step_alignment(alignment: Tensor) -> Tensor:
    """Alignment of each step, averaged over blocks and branches that have one: [evaluations, blocks, 2] -> [steps]."""
    return alignment.flatten(1).nanmean(dim=1)


def span_alignment(products: Tensor, mask: Tensor) -> Tensor:
    """Alignment over the distance that a prediction spans: float64 [evaluations, blocks, 2] in [-1, 1].

    Cosine between f_i - f_a and f_a - f_b, where a and b are the last two computed steps before a cached step i; NaN
    where there are no two, and in computed steps. A cell that does not change at all is counted as aligned. products:
    <f_i, f_j>, float64 [steps, steps, blocks, 2] (calibration.py).
    """
    alignment, unit = torch.full(mask.shape, torch.nan, dtype=torch.float64), torch.eye(len(mask), dtype=torch.float64)
    for block, branch in ndindex(*mask.shape[1:]):
        product, computed = products[:, :, block, branch], list[int]()
        for i, cached in enumerate(mask[:, block, branch].tolist()):
            if not cached:
                computed.append(i)
            elif len(computed) > 1:
                b, a = computed[-2:]
                changes = torch.stack([unit[i] - unit[a], unit[a] - unit[b]])
                (ahead, dot), (_, behind) = (changes @ product @ changes.T).tolist()
                alignment[i, block, branch] = dot / math.sqrt(ahead * behind) if min(ahead, behind) > 0 else 1.0
    return alignment


def inflections(alignment: Tensor, threshold: float, per_cell: bool = False) -> Tensor:
    """Cells at an inflection, bool [evaluations, blocks, 2]: alignment below the threshold.

    As published, the alignment is averaged over blocks and branches, and a step is an inflection as a whole; with
    per_cell each cell decides for itself. Steps without a gradient are none.
    """
    if per_cell:
        return alignment < threshold
    return (step_alignment(alignment) < threshold)[:, None, None].expand(alignment.shape)


def correct_at(correct_steps: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Correction on in the listed steps only, bool of the given shape [evaluations, blocks, 2]."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[list(correct_steps)] = True
    return mask
