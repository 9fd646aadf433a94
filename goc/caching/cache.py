"""Runs a schedule and a predictor inside the denoiser's forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from goc.caching.predictor import Predictor
from goc.models.dit import Site, Terms


class StepCache:
    """A denoiser's FeatureCache that never stands in for anything: the base of caches and of calibration recorders.

    One object serves one batch from step 0 to the last; call `begin_step` before each forward pass.
    """

    def __init__(self, site: Site = "branch") -> None:
        self.site: Site = site
        self.step = 0

    def begin_step(self, step: int) -> None:
        """Announce sampling step `step`, 0 = the noisiest."""
        self.step = step

    def decide(self, signal: Callable[[], Tensor]) -> None:
        """By default the step's cells are known beforehand, and the signal is not computed."""

    def lookup(self, block: int, branch: int) -> Terms | None:
        return None

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        """Called with every computed feature."""


class ScheduledCache(StepCache):
    """Answers with the predictor in the cached cells of a fixed schedule, and feeds it in the others.

    Args:
        mask: the schedule, bool [evaluations, blocks, 2], or [evaluations, 1, 1] at site "stack".
        predictor: made for the same mask.
    """

    def __init__(self, mask: Tensor, predictor: Predictor, site: Site = "branch") -> None:
        super().__init__(site)
        self.mask = mask
        self.cached: list[list[list[bool]]] = mask.tolist()
        self.predictor = predictor
        self.peak_cache_tensors = 0
        self.peak_cache_bytes = 0

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        held = self.predictor.held()
        self.peak_cache_tensors = max(self.peak_cache_tensors, len(held))
        self.peak_cache_bytes = max(self.peak_cache_bytes, sum(tensor.nbytes for tensor in held))

    def lookup(self, block: int, branch: int) -> Terms | None:
        if self.cached[self.step][block][branch]:
            return self.predictor.predict(self.step, (block, branch))
        return None

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        self.predictor.store(self.step, (block, branch), feature)


def relative_change(before: Tensor, now: Tensor) -> float:
    """Relative L1 change of a signal: |now - before| / |before|; 0 where it does not change, even from nothing."""
    return float(relative((now - before).abs().mean(), before.abs().mean()))


def relative(change: Tensor, size: Tensor) -> Tensor:
    """change / size, both at least 0 and broadcast; 0 where nothing changes, also where there is nothing."""
    return torch.where(change == 0, torch.zeros_like(change), change / size)


class AdaptiveCache(ScheduledCache):
    """Decides as it runs whether to skip a step (TeaCache, arXiv 2411.19108, section 3.3, without its polynomial).

    The relative L1 change of the first block's modulated input is summed over the steps since the last computed one; a
    step is skipped while the sum stays below the threshold. `mask` then says what was done with this batch.

    Args:
        possible: where a cell may be skipped, bool [evaluations, blocks, 2] or [evaluations, 1, 1], whole steps.
        predictor: made for the same mask.
        threshold: larger skips more; 0 skips nothing.
    """

    def __init__(self, possible: Tensor, predictor: Predictor, threshold: float, site: Site = "branch") -> None:
        super().__init__(torch.zeros_like(possible), predictor, site)
        self.possible: list[bool] = possible.flatten(1).all(dim=1).tolist()
        self.threshold = threshold
        self.change = 0.0
        self.signal: Tensor | None = None

    def decide(self, signal: Callable[[], Tensor]) -> None:
        before, self.signal = self.signal, signal()
        skip = False
        if before is not None:
            self.change += relative_change(before, self.signal)
            skip = self.possible[self.step] and self.change < self.threshold
        if not skip:
            self.change = 0.0
        self.mask[self.step] = skip
        self.cached[self.step] = self.mask[self.step].tolist()
