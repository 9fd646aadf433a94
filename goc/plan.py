"""A way's method on its model: which cells are cached, where they are corrected, and a cache that does it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.caching.cache import AdaptiveCache, ScheduledCache
from goc.caching.calibration import (
    FIRST_GRADIENT_STEP,
    AlignmentRecorder,
    ErrorRecorder,
    InputChangeRecorder,
    MagnitudeRecorder,
)
from goc.caching.inflection import correct_at, inflections, step_alignment
from goc.caching.schedule import cache_ratio_of, cached_steps_of, is_whole_steps
from goc.caching.stability import amplification
from goc.config import ModelConfig, Way
from goc.methods import AGAINST_DIVERGENCE, FoCaConfig, GradientQueueConfig, Situation, TaylorConfig
from goc.models.dit import BRANCHES, Site
from goc.sampling.calibrate import Calibration
from goc.sampling.generation import Generation
from goc.system.errors import ConfigError

LARGE_AMPLIFICATION = 10.0
LARGE_DISTANCE = 0.25  # relative L2 to the uncached samples; plain reuse stays below it up to 80 % cached digits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a cache needs. All masks are bool [steps, blocks, 2], or [steps, 1, 1] at site "stack"."""

    way: Way
    site: Site
    mask: Tensor  # cached cells; for an adaptive schedule, those that may be cached
    correct: Tensor | None  # where predictions are corrected; None = everywhere
    alignment: Tensor | None  # float64, where it was measured
    clock: Sequence[float] | None  # None = the step index
    skip_threshold: float | None  # of an adaptive schedule; None = the mask is what is cached

    @property
    def adaptive(self) -> bool:
        """Whether the cached cells are decided as it runs."""
        return self.skip_threshold is not None

    @property
    def nothing_cached(self) -> Tensor:
        """The mask that caches nothing."""
        return torch.zeros_like(self.mask)

    def new_cache(self) -> ScheduledCache:
        """A cache with empty state for one batch."""
        weights = self.way.gradient_weights or []
        predictor = self.way.predictor.build(self.mask, weights, self.correct, self.clock)
        if self.skip_threshold is not None:
            return AdaptiveCache(self.mask, predictor, self.skip_threshold, self.site)
        return ScheduledCache(self.mask, predictor, self.site)

    def corrected(self) -> Tensor:
        """Cells whose stand-in is more than a reused feature."""
        predictor, corrected = self.way.predictor, self.nothing_cached
        if isinstance(predictor, GradientQueueConfig):
            corrected = predictor.corrected(self.mask, self.correct).clone()
        elif isinstance(predictor, FoCaConfig) or (isinstance(predictor, TaylorConfig) and predictor.order > 0):
            corrected = self.mask.clone()
        corrected[:FIRST_GRADIENT_STEP] = False
        return corrected

    @cached_property
    def amplification(self) -> float | None:
        """How much the gradient queue may amplify its own errors; None for other predictors."""
        predictor = self.way.predictor
        if not isinstance(predictor, GradientQueueConfig):
            return None
        correct = predictor.corrected(self.mask, self.correct)
        return amplification(self.mask, self.way.gradient_weights or [], correct, self.clock)

    @property
    def diverges(self) -> bool:
        """Whether the gradient queue amplifies its own errors so much that it will go astray."""
        return self.amplification is not None and self.amplification > LARGE_AMPLIFICATION

    def describe(self) -> dict[str, Any]:
        """The plan's part of result.json."""
        described: dict[str, Any] = {"inflection": {}, "amplification": self.amplification}
        described["cached_steps"] = None if self.adaptive else cached_steps_of(self.mask)
        shares = self.mask.double().flatten(1).mean(dim=1)  # of each step's cells
        described["cached_share"] = None if self.adaptive else shares.tolist()
        described["skip_threshold"] = self.skip_threshold
        if self.correct is not None:
            steps = torch.tensor(cached_steps_of(self.mask), dtype=torch.long)
            off = steps[~self.correct[steps].flatten(1).any(dim=1)]
            described["inflection"]["uncorrected_steps"] = off.tolist()
        if self.alignment is not None:
            described["inflection"]["alignment"] = step_alignment(self.alignment).tolist()
        return described


def calibration_of(way: Way, generation: Generation, key: dict[str, Any], cache_dir: str) -> Calibration:
    """The uncached run that a way's recorders look at; key: what its trajectories depend on apart from the seeds."""
    return Calibration(generation, key, way.calibration_seed, way.calibration_samples, way.batch_size, Path(cache_dir))


def make_plan(way: Way, model: ModelConfig, calibration: Calibration) -> Plan:
    """Turn the settings into masks; what needs a calibration run is measured only if a setting asks for it."""
    depth, device = calibration.generation.model.depth, calibration.generation.device
    evaluations, sampler = way.num_evaluations, way.sampler.name

    def branch_errors(lookahead: int) -> Tensor:
        recorder = ErrorRecorder((evaluations, depth, BRANCHES), lookahead, device)
        return calibration.measured("errors", recorder, recorder.errors, lookahead=lookahead)

    def input_changes() -> Tensor:
        recorder = InputChangeRecorder(evaluations)
        return calibration.measured("changes", recorder, recorder.changes)

    def magnitude_ratios() -> Tensor:
        recorder = MagnitudeRecorder(evaluations)
        return calibration.measured("magnitudes", recorder, recorder.ratios)

    situation = Situation(
        steps=evaluations,
        depth=depth,
        cache_ratio=way.cache_ratio or 0.0,
        model=model.name,
        sampler=sampler,
        router=model.routers and model.routers.format(sampler=sampler, steps=way.steps),
        branch_errors=branch_errors,
        input_changes=input_changes,
        magnitude_ratios=magnitude_ratios,
    )
    mask, skip_threshold = way.schedule.mask(situation), way.schedule.skip_threshold(situation)
    site: Site = "stack" if way.site == "stack" else "branch"
    if site == "stack":
        if not is_whole_steps(mask):
            raise ConfigError(
                f"site=stack: schedule={way.schedule.name} caches some cells of a step and computes others; "
                "use site=branch, or a schedule of whole steps"
            )
        mask = mask[:, :1, :1]
    if skip_threshold is None:
        report_ratio(way, mask)

    correct = alignment = None
    if way.correct_steps is not None:
        correct = correct_at(way.correct_steps, tuple(mask.shape))
    elif way.inflection_threshold is not None:
        steps, blocks, branches = mask.shape
        recorder = AlignmentRecorder((steps, blocks, branches), site, device)
        alignment = calibration.measured("alignment", recorder, recorder.alignment, site=site)
        correct = ~inflections(alignment, way.inflection_threshold, way.inflection_scope == "cell")
    clock = calibration.generation.solver.grid.log_snr.tolist() if way.clock == "logsnr" else None
    plan = Plan(way, site, mask, correct, alignment, clock, skip_threshold)
    warn_of_divergence(plan)
    return plan


def report_ratio(way: Way, mask: Tensor) -> None:
    """Say which ratio a target became, where it could not be met."""
    reached = cache_ratio_of(mask)
    if way.cache_ratio is not None and abs(reached - way.cache_ratio) > 1e-9:
        log.warning(
            "cache_ratio=%g: became %.4g, the closest that schedule=%s allows with steps=%d",
            way.cache_ratio,
            reached,
            way.schedule.name,
            way.steps,
        )


def warn_of_divergence(plan: Plan) -> None:
    """Say so when the gradient queue will amplify its own errors, and what to do."""
    if plan.diverges:
        log.warning(
            "the gradient queue amplifies its own errors up to %.3g times on this schedule: expect it to diverge; %s",
            plan.amplification,
            AGAINST_DIVERGENCE,
        )


def warn_of_distance(plan: Plan, relative_l2: float) -> None:
    """Say so when samples went far from the uncached ones, and whether the gradient queue's errors grew to that."""
    factor = plan.amplification
    if factor is None or relative_l2 <= LARGE_DISTANCE:
        return
    if plan.diverges:
        log.warning(
            "relative L2 to the uncached samples is %.3g: the gradient queue diverged; %s",
            relative_l2,
            AGAINST_DIVERGENCE,
        )
    else:
        log.warning(
            "relative L2 to the uncached samples is %.3g, though errors grow at most %.3g times: these steps are too "
            "far apart, or corrections mislead here; compare with predictor=reuse, or lower cache_ratio",
            relative_l2,
            factor,
        )
