"""Runs a schedule and a predictor inside the denoiser's forward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from goc.caching.decision import Decision
from goc.caching.predictor import Predictor
from goc.caching.selection import Draws, Selection
from goc.models.network import MLP, Site, Terms
from goc.models.packed import Value
from goc.models.seen import Looked, Seen


class StepCache:
    """A denoiser's FeatureCache that never stands in for anything: the base of caches and of calibration recorders.

    One object serves one batch from step 0 to the last; call `begin_step` before each forward pass.
    """

    def __init__(self, site: Site = "branch") -> None:
        self.site: Site = site
        self.step = 0
        self.times: Tensor | None = None  # [evaluations] that the network is given, where they are not the solver's
        self.peak_cache_tensors = self.peak_cache_bytes = 0

    def begin_step(self, step: int) -> None:
        """Announce sampling step `step`, 0 = the noisiest."""
        self.step = step

    def count_held(self, held: Sequence[Value]) -> None:
        """Tensors that are held now: the most of them counts."""
        self.peak_cache_tensors = max(self.peak_cache_tensors, len(held))
        self.peak_cache_bytes = max(self.peak_cache_bytes, sum(tensor.nbytes for tensor in held))

    def draw_from(self, generators: Sequence[torch.Generator]) -> None:
        """The random generators of the batch's samples, before the first step, for caches that draw."""

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

    def selected(self, block: int, branch: int) -> Tensor | None:
        return None

    def refresh(self, block: int, branch: int, tokens: Tensor, fresh: Tensor) -> None:
        """Called with the features of selected tokens."""

    def wants_attention(self, block: int) -> bool:
        return False

    def attended(self, block: int, received: Tensor) -> None:
        """Called with the attention that tokens receive, where it is wanted."""

    def finish(self, h: Tensor) -> Tensor:
        return h


class ScheduledCache(StepCache):
    """Answers with the predictor in the cached cells of a fixed schedule, and feeds it in the others.

    Args:
        mask: the schedule, bool [evaluations, blocks, 2], or [evaluations, 1, 1] at site "stack".
        predictor: made for the same mask.
        selection: names tokens that are computed after all, made for the same mask; None: none are.
        skipped: steps whose stream after the last block is that of the step before, and whose cached cells add nothing.
        times: what the network is given in the evaluations [evaluations]; None: the solver's.
    """

    def __init__(
        self,
        mask: Tensor,
        predictor: Predictor,
        site: Site = "branch",
        selection: Selection | None = None,
        skipped: Sequence[int] = (),
        times: Tensor | None = None,
    ) -> None:
        super().__init__(site)
        self.mask, self.times = mask, times
        self.cached: list[list[list[bool]]] = mask.tolist()
        self.predictor, self.selection, self.skipped = predictor, selection, frozenset(skipped)
        self.stream: Tensor | None = None  # after the last block, for a skipped step

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self.count_held(self.held())
        if self.selection is not None:
            self.selection.begin_step(step)

    def draw_from(self, generators: Sequence[torch.Generator]) -> None:
        if self.selection is not None:
            self.selection.draws = Draws(generators)

    def held(self) -> list[Value]:
        """The tensors held now."""
        others = [] if self.selection is None else self.selection.held()
        return [*self.predictor.held(), *others, *([] if self.stream is None else [self.stream])]

    def lookup(self, block: int, branch: int) -> Terms | None:
        if not self.cached[self.step][block][branch]:
            return None
        terms = self.predictor.predict(self.step, (block, branch))
        return [] if self.step in self.skipped else terms

    def selection_of(self, block: int, branch: int) -> tuple[Selection, int] | None:
        """The selection of a cell's tokens, and the block that it knows the cell by; None: it has none."""
        return None if self.selection is None or branch != MLP else (self.selection, block)

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        self.predictor.store(self.step, (block, branch), feature)
        if (entry := self.selection_of(block, branch)) is not None:
            selection, index = entry
            selection.stored(index, feature)

    def selected(self, block: int, branch: int) -> Tensor | None:
        selection, index = self.selection_of(block, branch) or (None, block)
        if selection is None or not selection.asked[self.step][index]:
            return None
        held = self.predictor.newest((block, branch))
        count = selection.count(index, held.shape[1])
        if count == 0:
            selection.passed(index)
            return None
        return selection.choose(index, count, held)

    def refresh(self, block: int, branch: int, tokens: Tensor, fresh: Tensor) -> None:
        entry = self.selection_of(block, branch)
        assert entry is not None  # it named the tokens
        selection, index = entry
        selection.write(index, self.predictor.newest((block, branch)), tokens, fresh)

    def wants_attention(self, block: int) -> bool:
        return self.selection is not None and self.selection.attention_wanted[self.step][block]

    def attended(self, block: int, received: Tensor) -> None:
        assert self.selection is not None
        self.selection.attended(block, received)

    def finish(self, h: Tensor) -> Tensor:
        if self.step in self.skipped:
            assert self.stream is not None  # the step before left it
            h = self.stream
        self.stream = h if self.step + 1 in self.skipped else None
        if self.selection is not None:
            self.selection.finished(h)
        return h


class Decided(StepCache):
    """Of a rule that decides as it runs."""

    decision: Decision

    @property
    def first_blocks(self) -> int:
        return self.decision.blocks

    @property
    def of_all(self) -> bool:
        return self.decision.of_all


class AdaptiveCache(Decided, ScheduledCache):
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
