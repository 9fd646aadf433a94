"""What is measured in an uncached calibration run, before caching: sums over samples and tokens, never features.

Each recorder is handed to the denoiser as a cache, and sees every feature that is computed. Several batches may be run
one after the other.
"""

from collections import deque

import torch
from torch import Tensor

from goc.caching.cache import StepCache
from goc.caching.decision import relative, relative_change
from goc.caching.predictor import Cell
from goc.models.network import Site
from goc.models.seen import Seen

FIRST_GRADIENT_STEP = 2  # the first step with two changes behind it


class AlignmentRecorder(StepCache):
    """Sums the inner products of successive feature changes (GOC, arXiv 2503.05156, section 3.3).

    With d_i = f_i - f_{i-1}: `dot[i]` sums <d_i, d_{i-1}>, `square[i]` sums |d_i|^2, over samples and tokens, for
    each cell; float64 of the given shape, [evaluations, blocks, 2] or [evaluations, 1, 1] at site "stack".
    """

    def __init__(self, shape: tuple[int, int, int], site: Site = "branch", device: torch.device | str = "cpu") -> None:
        super().__init__(site)
        self.dot = torch.zeros(shape, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.dot)
        self.feature: dict[Cell, Tensor] = {}
        self.change: dict[Cell, Tensor] = {}

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        if step == 0:  # a new batch
            self.feature.clear()
            self.change.clear()

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
        """Cosine between successive changes, float64 [evaluations, blocks, 2] in [-1, 1]; NaN before step 2.

        A cell that does not change at all is counted as aligned (its gradient is zero and corrects nothing).
        """
        norm = (self.square[1:] * self.square[:-1]).sqrt()
        alignment = torch.full_like(self.dot, torch.nan)
        alignment[1:] = torch.where(norm > 0, self.dot[1:] / norm, 1.0)
        alignment[:FIRST_GRADIENT_STEP] = torch.nan
        return alignment.cpu()


class ErrorRecorder(StepCache):
    """Sums |f_i - f_{i-k}| for k = 1..lookahead, and |f_i| (SmoothCache, arXiv 2411.10510, section 3.2).

    The sums are over samples and tokens, float64 [steps, lookahead, blocks, 2] and [evaluations, blocks, 2].
    """

    def __init__(self, shape: tuple[int, int, int], lookahead: int, device: torch.device | str = "cpu") -> None:
        super().__init__("branch")
        steps, blocks, branches = shape
        self.difference = torch.zeros(steps, lookahead, blocks, branches, dtype=torch.float64, device=device)
        self.size = torch.zeros(shape, dtype=torch.float64, device=device)
        self.features: dict[Cell, deque[Tensor]] = {}

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        if step == 0:  # a new batch
            self.features.clear()

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        earlier = self.features.setdefault((block, branch), deque(maxlen=self.difference.shape[1]))
        for k, older in enumerate(earlier):
            self.difference[self.step, k, block, branch] += (feature - older).abs().sum(dtype=torch.float64)
        self.size[self.step, block, branch] += feature.abs().sum(dtype=torch.float64)
        earlier.appendleft(feature)

    def errors(self) -> Tensor:
        """Relative L1 error of reusing the feature of k steps before, averaged over blocks: [steps, lookahead, 2].

        Infinite where there is no such step.
        """
        errors = relative(self.difference, self.size[:, None]).mean(dim=2)
        for k in range(errors.shape[1]):
            errors[: k + 1, k] = torch.inf
        return errors.cpu()


class InputChangeRecorder(StepCache):
    """Measures how the first block's modulated input changes from step to step (TeaCache, arXiv 2411.19108, eq. 4).

    `change[i]` sums each batch's relative L1 change since step i - 1, float64 [steps]; `batches` counts the batches.
    """

    def __init__(self, steps: int) -> None:
        super().__init__("branch")
        self.change = torch.zeros(steps, dtype=torch.float64)
        self.batches = 0
        self.signal: Tensor | None = None

    def decide(self, seen: Seen) -> None:
        before, self.signal = self.signal, seen.modulated_input()
        if self.step == 0:  # a new batch
            self.batches += 1
        elif before is not None:
            self.change[self.step] += relative_change(before, self.signal)

    def changes(self) -> Tensor:
        """Relative L1 change since the step before, averaged over batches: float64 [steps]; 0 in step 0."""
        return self.change / self.batches


class ProductRecorder(StepCache):
    """Sums the inner products <f_i, f_j> of every two steps' features, over samples and tokens, for each cell.

    Any mask's alignment over spans (inflection.py) and any linear prediction's error (dynamic.py) follow from them.
    `product` is float64 [steps, steps, blocks, 2], or [steps, steps, 1, 1] at site "stack". All features are held.
    """

    def __init__(self, shape: tuple[int, int, int], site: Site = "branch", device: torch.device | str = "cpu") -> None:
        super().__init__(site)
        steps, blocks, branches = shape
        self.product = torch.zeros(steps, steps, blocks, branches, dtype=torch.float64, device=device)
        self.features: dict[Cell, list[Tensor]] = {}

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        earlier = [] if self.step == 0 else self.features[block, branch]  # step 0: a new batch
        self.features[block, branch] = [*earlier, feature]
        for j, other in enumerate(self.features[block, branch]):
            self.product[self.step, j, block, branch] += (feature * other).sum(dtype=torch.float64)

    def products(self) -> Tensor:
        """The sums, symmetric in the two steps, float64 [steps, steps, blocks, 2]."""
        lower = self.product.cpu().permute(2, 3, 0, 1)
        return (lower + lower.tril(-1).mT).permute(2, 3, 0, 1)


class MagnitudeRecorder(StepCache):
    """Measures how the magnitude of what all blocks add changes from step to step (MagCache, arXiv 2506.09045).

    `ratio[i]` sums |f_i| / |f_{i-1}| of each token's vector over samples and tokens, float64 [steps]; `tokens` counts.
    """

    def __init__(self, steps: int) -> None:
        super().__init__("stack")
        self.ratio = torch.zeros(steps, dtype=torch.float64)
        self.tokens = 0
        self.norm: Tensor | None = None

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        before, self.norm = self.norm, feature.float().norm(dim=-1)
        if self.step == 0:  # a new batch
            self.tokens += self.norm.numel()
        elif before is not None:
            ratio = torch.where((self.norm == 0) & (before == 0), 1.0, self.norm / (before + 1e-8))
            self.ratio[self.step] += float(ratio.sum(dtype=torch.float64))

    def ratios(self) -> Tensor:
        """Magnitude against the step before, averaged over samples and tokens: float64 [steps]; 1 in step 0."""
        ratios = self.ratio / self.tokens
        ratios[0] = 1.0
        return ratios
