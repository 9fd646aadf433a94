"""A config's method on its model: which cells are cached, where they are corrected, and a cache that does it."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from goc.caching.cache import AdaptiveCache, FeatureCache, StepCache
from goc.caching.calibration import FIRST_GRADIENT_STEP, AlignmentRecorder, ErrorRecorder, InputChangeRecorder
from goc.caching.inflection import correct_at, inflections, step_alignment
from goc.caching.schedule import cache_ratio_of, cached_steps_of, is_whole_steps
from goc.caching.stability import amplification
from goc.config import Config
from goc.errors import ConfigError
from goc.files import content_key, write_atomically
from goc.generate import Generation
from goc.methods import AGAINST_DIVERGENCE, GradientQueueConfig, Situation, TaylorConfig
from goc.models.dit import BRANCHES, Site

LARGE_AMPLIFICATION = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a cache needs. All masks are bool [steps, blocks, 2], or [steps, 1, 1] at site "stack"."""

    config: Config
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

    def new_cache(self) -> FeatureCache:
        """A cache with empty state for one batch."""
        weights = self.config.gradient_weights or []
        predictor = self.config.predictor.build(self.mask, weights, self.correct, self.clock)
        if self.skip_threshold is not None:
            return AdaptiveCache(self.mask, predictor, self.skip_threshold, self.site)
        return FeatureCache(self.mask, predictor, self.site)

    def corrected(self) -> Tensor:
        """Cells whose stand-in is more than a reused feature."""
        predictor, corrected = self.config.predictor, self.nothing_cached
        if isinstance(predictor, GradientQueueConfig):
            corrected = predictor.corrected(self.mask, self.correct).clone()
        elif isinstance(predictor, TaylorConfig) and predictor.order > 0:
            corrected = self.mask.clone()
        corrected[:FIRST_GRADIENT_STEP] = False
        return corrected

    @cached_property
    def amplification(self) -> float | None:
        """How much the gradient queue may amplify its own errors; None for other predictors."""
        predictor = self.config.predictor
        if not isinstance(predictor, GradientQueueConfig):
            return None
        correct = predictor.corrected(self.mask, self.correct)
        return amplification(self.mask, self.config.gradient_weights or [], correct, self.clock)

    def describe(self) -> dict[str, Any]:
        """The plan's part of result.json."""
        described: dict[str, Any] = {"inflection": {}, "amplification": self.amplification}
        described["cached_steps"] = None if self.adaptive else cached_steps_of(self.mask)
        described["skip_threshold"] = self.skip_threshold
        if self.correct is not None:
            steps = torch.tensor(cached_steps_of(self.mask), dtype=torch.long)
            off = steps[~self.correct[steps].flatten(1).any(dim=1)]
            described["inflection"]["uncorrected_steps"] = off.tolist()
        if self.alignment is not None:
            described["inflection"]["alignment"] = step_alignment(self.alignment).tolist()
        return described


def shared_path(config: Config, kind: str, key: dict[str, Any]) -> Path:
    """Where something that several runs share is kept: named by all that it depends on."""
    folder = Path(config.cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}-{content_key(key)}"


def calibrated(
    config: Config,
    generation: Generation,
    key: dict[str, Any],
    kind: str,
    recorder: StepCache,
    measure: Callable[[], Tensor],
) -> Tensor:
    """What a recorder measures in an uncached run of the calibration seeds; from disk if it was measured before."""
    key = {**key, "seed": config.calibration_seed, "samples": config.calibration_samples}
    path = shared_path(config, kind, key).with_suffix(".safetensors")
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return load_file(path)[kind]
            except (SafetensorError, OSError, KeyError) as error:
                log.warning("%s is damaged (%s): it is measured again", path, error)
        calibration = replace(generation, new_cache=lambda: recorder, seed=config.calibration_seed)
        for start in range(0, config.calibration_samples, config.batch_size):
            calibration.make(range(start, min(start + config.batch_size, config.calibration_samples)))
        measured = measure()
        write_atomically(path, save({kind: measured}, metadata={"key": json.dumps(key)}))
        return measured


def make_plan(config: Config, generation: Generation, key: dict[str, Any]) -> Plan:
    """Turn the settings into masks; what needs a calibration run is measured only if a setting asks for it.

    key: what an uncached trajectory depends on, by which calibrations are kept.
    """
    depth, device = generation.model.depth, generation.device

    def branch_errors(lookahead: int) -> Tensor:
        recorder = ErrorRecorder((config.steps, depth, BRANCHES), lookahead, device)
        return calibrated(config, generation, {**key, "lookahead": lookahead}, "errors", recorder, recorder.errors)

    def input_changes() -> Tensor:
        recorder = InputChangeRecorder(config.steps)
        return calibrated(config, generation, key, "changes", recorder, recorder.changes)

    routers = config.model.routers
    situation = Situation(
        steps=config.steps,
        depth=depth,
        cache_ratio=config.cache_ratio or 0.0,
        model=config.model.name,
        sampler=config.sampler,
        router=routers and routers.format(sampler=config.sampler, steps=config.steps),
        branch_errors=branch_errors,
        input_changes=input_changes,
    )
    mask, skip_threshold = config.schedule.mask(situation), config.schedule.skip_threshold(situation)
    site: Site = "stack" if config.site == "stack" else "branch"
    if site == "stack":
        if not is_whole_steps(mask):
            raise ConfigError(
                f"site=stack: schedule={config.schedule.name} caches some cells of a step and computes others; "
                "use site=branch, or a schedule of whole steps"
            )
        mask = mask[:, :1, :1]
    if skip_threshold is None:
        report_ratio(config, mask)

    correct = alignment = None
    if config.correct_steps is not None:
        correct = correct_at(config.correct_steps, tuple(mask.shape))
    elif config.inflection_threshold is not None:
        steps, blocks, branches = mask.shape
        recorder = AlignmentRecorder((steps, blocks, branches), site, device)
        alignment = calibrated(config, generation, {**key, "site": site}, "alignment", recorder, recorder.alignment)
        correct = ~inflections(alignment, config.inflection_threshold, config.inflection_scope == "cell")
    clock = generation.schedule.log_snr.tolist() if config.clock == "logsnr" else None
    plan = Plan(config, site, mask, correct, alignment, clock, skip_threshold)
    warn_of_divergence(plan)
    return plan


def report_ratio(config: Config, mask: Tensor) -> None:
    """Say which ratio a target became, where it could not be met."""
    reached = cache_ratio_of(mask)
    if config.cache_ratio is not None and abs(reached - config.cache_ratio) > 1e-9:
        log.warning(
            "cache_ratio=%g: became %.4g, the closest that schedule=%s allows with steps=%d",
            config.cache_ratio,
            reached,
            config.schedule.name,
            config.steps,
        )


def warn_of_divergence(plan: Plan) -> None:
    """Say so when the gradient queue will amplify its own errors, and what to do."""
    factor = plan.amplification
    if factor is not None and factor > LARGE_AMPLIFICATION:
        log.warning(
            "the gradient queue amplifies its own errors up to %.3g times on this schedule: expect it to diverge; %s",
            factor,
            AGAINST_DIVERGENCE,
        )
