"""A plan: which cells are cached, where they are corrected, and a cache that does it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from goc.caching.cache import AdaptiveCache, ScheduledCache, StepCache
from goc.caching.calibration import FIRST_GRADIENT_STEP
from goc.caching.expansion import Taylor
from goc.caching.halves import HalfCaches, Halves
from goc.caching.inflection import step_alignment
from goc.caching.predictor import Predictor
from goc.caching.schedule import cached_steps_of
from goc.config import Way
from goc.methods import Cells, Partial
from goc.models.network import Site
from goc.models.schedules import Trained
from goc.system.files import content_key

LARGE_AMPLIFICATION = 10.0


@dataclass(frozen=True)
class Plan:
    """What a cache needs. All masks are bool [evaluations, blocks, 2], or [evaluations, 1, 1] at site "stack"."""

    way: Way
    site: Site
    mask: Tensor  # cached cells; for an adaptive schedule, those that may be cached
    correct: Tensor | None  # where predictions are corrected; None = everywhere
    alignment: Tensor | None  # float64, where it was measured
    clock: Sequence[float] | None  # None = the step index
    skip_threshold: float | None  # of an adaptive schedule; None = the mask is what is cached
    learned: Trained | None = None  # of a trained predictor
    times: Tensor | None = None  # [evaluations] that the network is given, where they are not the solver's
    noise: Sequence[float] = ()  # over the signal, in each evaluation, for decisions that ask
    halves: Halves | None = None  # of the guidance, where they do not go together everywhere
    skipped: Sequence[int] = ()  # steps in which the stream of the step before stands in for all blocks
    interval: float = 1.0  # between computed steps, for selections

    @property
    def adaptive(self) -> bool:
        """Whether the cached cells are decided as it runs."""
        return self.skip_threshold is not None

    @property
    def cells(self) -> Cells:
        """What its predictor is built for."""
        weights = None if self.learned is None else self.learned.weights
        return Cells(self.mask, self.correct, self.clock, self.way.gradient_weights or (), weights)

    @property
    def spares(self) -> bool:
        """Whether anything may not be computed."""
        return self.halves is not None or bool(self.mask.any())

    def new_cache(self) -> StepCache:
        """A cache with empty state for one batch."""
        if self.halves is None:
            return self.feature_cache()
        unconditional, order = self.of_unconditional(), int(self.way.cfg_cache_predictor == "linear")
        new_caches = [plan.feature_cache if plan.mask.any() else None for plan in (self, unconditional)]
        predicted = self.halves.predicted
        return HalfCaches(self.halves, new_caches, lambda: Taylor(predicted, order, self.clock))

    def of_unconditional(self) -> "Plan":
        """The plan in the unconditional half's own evaluations, the first of which is always computed."""
        assert self.halves is not None
        places = self.halves.places
        mask, clock = self.mask[places], range(len(self.mask)) if self.clock is None else self.clock
        mask[:1] = False
        return replace(
            self,
            mask=mask,
            correct=None if self.correct is None else self.correct[places],
            clock=[clock[i] for i in places],
            noise=[self.noise[i] for i in places] if self.noise else (),
            skipped=[place for place, i in enumerate(places) if place and i in self.skipped],
            halves=None,
        )

    def feature_cache(self) -> ScheduledCache:
        """The same of one half, or of both where they go together."""
        predictor = self.new_predictor()
        if self.skip_threshold is not None:
            schedule = self.way.schedule
            decision = schedule.decision(self.skip_threshold, self.noise, len(self.mask))
            return AdaptiveCache(self.mask, predictor, decision, self.site, schedule.per_sample)
        selection = self.way.selection.build(Partial(self.mask, self.skipped, self.interval))
        return ScheduledCache(self.mask, predictor, self.site, selection, self.skipped, self.times)

    def new_predictor(self) -> Predictor:
        """A predictor with empty state for one batch."""
        return self.way.predictor.build(self.cells)

    def corrected(self) -> Tensor:
        """Cells whose stand-in is more than a reused feature."""
        corrected = self.way.predictor.corrected(self.cells).clone()
        corrected[:FIRST_GRADIENT_STEP] = False
        return corrected

    @cached_property
    def amplification(self) -> float | None:
        """How much the gradient queue may amplify its own errors; None for other predictors."""
        return self.way.predictor.amplification(self.cells)

    @property
    def diverges(self) -> bool:
        """Whether the gradient queue amplifies its own errors so much that it will go astray."""
        return self.amplification is not None and self.amplification > LARGE_AMPLIFICATION

    def digest(self) -> str:
        """A short name for all of the plan that is not in the way's settings: equal for equal plans."""
        parts = {"mask": self.mask, "correct": self.correct, "learned": self.cells.learned}
        parts |= {} if self.times is None else {"times": self.times}
        values = {name: None if part is None else [str(part.dtype), part.tolist()] for name, part in parts.items()}
        skipped = {"skipped": list(self.skipped)} if self.skipped else {}
        return content_key({**values, "skip_threshold": self.skip_threshold, "clock": self.clock, **skipped})

    def describe(self) -> dict[str, Any]:
        """The plan's part of result.json."""
        described: dict[str, Any] = {"inflection": {}, "amplification": self.amplification}
        described["cached_steps"] = None if self.adaptive else cached_steps_of(self.mask)
        shares = self.mask.double().flatten(1).mean(dim=1)  # of each step's cells
        described["cached_share"] = None if self.adaptive else shares.tolist()
        described["skip_threshold"] = self.skip_threshold
        described |= {} if self.halves is None else {"guidance": self.halves.describe()}
        if self.correct is not None:
            steps = torch.tensor(cached_steps_of(self.mask), dtype=torch.long)
            off = steps[~self.correct[steps].flatten(1).any(dim=1)]
            described["inflection"]["uncorrected_steps"] = off.tolist()
        if self.alignment is not None:
            described["inflection"]["alignment"] = step_alignment(self.alignment).tolist()
        return described
