"""Inflection-aware optimisation (GOC, arXiv 2503.05156, section 3.3): where the gradient points the wrong way.

An uncached calibration run (calibration.py) measures how well each step's change of a feature continues the change
before it; a step where it does not is an inflection.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def step_alignment(alignment: Tensor) -> Tensor:
    """Alignment of each step, averaged over blocks and branches: [steps, blocks, 2] -> [steps]."""
    return alignment.flatten(1).mean(dim=1)


def inflections(alignment: Tensor, threshold: float, per_cell: bool = False) -> Tensor:
    """Cells at an inflection, bool [steps, blocks, 2]: alignment below the threshold.

    As published, the alignment is averaged over blocks and branches, and a step is an inflection as a whole; with
    per_cell each cell decides for itself. Steps without a gradient are none.
    """
    if per_cell:
        return alignment < threshold
    return (step_alignment(alignment) < threshold)[:, None, None].expand(alignment.shape)


def correct_at(correct_steps: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Correction on in the listed steps only, bool of the given shape [steps, blocks, 2]."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[list(correct_steps)] = True
    return mask
