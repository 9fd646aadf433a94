"""Runs a schedule and a predictor inside the denoiser's forward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from goc.caching.decision import Decision
from goc.caching.predictor import Predictor
from goc.models.dit import Site, Terms
from goc.models.seen import Looked, Seen


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

    @property
    def first_blocks(self) -> int:
        """How many first blocks are computed in each step before it is decided."""
        return 0

    @property
    def of_all(self) -> bool:
        """At site "stack": whether the feature is what all blocks add, or what those after the first ones do."""
        return True

    def decide(self, seen: Seen) -> None:
        """By default the step's cells are known beforehand, and nothing is looked at."""

    def parts(self, rows: int) -> Sequence[tuple[list[int], "StepCache"]] | None:
        """Rows that are treated alike, and the cache of each; None: all are, by this one."""
        return None

    @property
    def checks(self) -> bool:
        """Whether the last block is computed beside what stands in for it, for `check`."""
        return False

    def check(self, predicted: Tensor, computed: Tensor) -> None:
        """What comes out of the last block [N, tokens, hidden]: with its stand-in, and computed."""

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


class AdaptiveCache(ScheduledCache):
    """Decides as it runs whether to skip a step; `mask` then says what was done.

    Args:
        possible: where a cell may be skipped, bool [evaluations, blocks, 2] or [evaluations, 1, 1], whole steps.
        predictor: made for the same mask.
        decision: the rule, with the state of one trajectory.
        per_sample: whether each sample of a batch is to have a cache of its own (`goc.caching.samples`).
    """

    def __init__(
        self,
        possible: Tensor,
        predictor: Predictor,
        decision: Decision,
        site: Site = "branch",
        per_sample: bool = False,
    ) -> None:
        super().__init__(torch.zeros_like(possible), predictor, site)
        self.possible: list[bool] = possible.flatten(1).all(dim=1).tolist()
        self.decision, self.per_sample = decision, per_sample

    @property
    def first_blocks(self) -> int:
        return self.decision.blocks

    @property
    def of_all(self) -> bool:
        return self.decision.of_all

    @property
    def skipping(self) -> bool:
        """Whether this step is skipped."""
        return bool(self.mask[self.step].any())

    @property
    def looked(self) -> list[Looked]:
        """What was computed only to be looked at, of each that is decided by itself: all rows together."""
        return [self.decision.looked(0)]

    @property
    def checks(self) -> bool:
        return self.skipping and self.decision.checks(0)

    def check(self, predicted: Tensor, computed: Tensor) -> None:
        self.decision.checked([0], predicted, computed)

    def decide(self, seen: Seen) -> None:
        (allowed,) = self.decision.allows(self.step, seen)
        skip = allowed and self.possible[self.step]
        self.decision.done([skip])
        self.mask[self.step] = skip
        self.cached[self.step] = self.mask[self.step].tolist()
        self.predictor.see(self.step, seen)
