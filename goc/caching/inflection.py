"""Inflection-aware optimisation (GOC, arXiv 2503.05156, section 3.3): where the gradient points the wrong way.

An uncached calibration run measures how well each step's change of a feature continues the change before it. Only
inner products are kept, never features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goc.caching.predictor import Cell
from goc.models.dit import BRANCHES

FIRST_GRADIENT_STEP = 2  # the first step with two changes behind it


class AlignmentRecorder:
    """A denoiser's FeatureCache that never stands in for anything, and sums the inner products of feature changes.

    With d_i = f_i - f_{i-1}: `dot[i]` sums <d_i, d_{i-1}>, `square[i]` sums |d_i|^2, over samples and tokens, for
    each cell; float64 [steps, blocks, 2]. Several batches may be run one after the other.
    """

    def __init__(self, steps: int, depth: int, device: torch.device | str = "cpu") -> None:
        self.dot = torch.zeros(steps, depth, BRANCHES, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.dot)
        self.step = 0
        self.feature: dict[Cell, Tensor] = {}
        self.change: dict[Cell, Tensor] = {}

    def begin_step(self, step: int) -> None:
        """Announce sampling step `step`; step 0 starts a new batch."""
        self.step = step
        if step == 0:
            self.feature.clear()
            self.change.clear()

    def lookup(self, block: int, branch: int) -> Tensor | None:
        return None

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        cell = block, branch
        if self.step > 0:
            change = (feature - self.feature[cell]).double()
            self.square[self.step, block, branch] += change.square().sum()
            if self.step > 1:
                self.dot[self.step, block, branch] += (change * self.change[cell]).sum()
            self.change[cell] = change.to(feature.dtype)
        self.feature[cell] = feature

    def alignment(self) -> Tensor:
        """Cosine between successive changes, float64 [steps, blocks, 2] in [-1, 1]; NaN before step 2.

        A cell that does not change at all is counted as aligned (its gradient is zero and corrects nothing).
        """
        norm = (self.square[1:] * self.square[:-1]).sqrt()
        alignment = torch.full_like(self.dot, torch.nan)
        alignment[1:] = torch.where(norm > 0, self.dot[1:] / norm, 1.0)
        alignment[:FIRST_GRADIENT_STEP] = torch.nan
        return alignment.cpu()


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
