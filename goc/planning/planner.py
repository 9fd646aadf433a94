"""A way's method on its model: which cells are cached, where they are corrected, and a cache that does it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.caching.cache import ScheduledCache
from goc.caching.calibration import (
    AlignmentRecorder,
    ErrorRecorder,
    InputChangeRecorder,
    MagnitudeRecorder,
    ProductRecorder,
)
from goc.caching.inflection import correct_at, inflections, span_alignment
from goc.caching.schedule import computed_steps_of, computing, is_whole_steps
from goc.config import ModelConfig, Way
from goc.config.validation import place
from goc.methods import Situation
from goc.models.dit import BRANCHES, Site
from goc.planning.plan import Plan
from goc.planning.warnings import report_ratio, warn_of_divergence, warn_of_reuse
from goc.sampling.calibrate import Calibration
from goc.sampling.generation import Generation
from goc.sampling.local_search import Steps
from goc.sampling.search import searched
from goc.system.errors import ConfigError

PRODUCTS_BATCH = 4  # samples whose features of all steps are held together
# of a way, what a schedule's distance to the target depends on besides its predictor
SEARCH_DEPENDS_ON = ("gradient_weights", "correct_steps", "site", "clock")
GATING = ("inflection_threshold", "inflection_signal", "inflection_scope", "calibration_samples")  # if there is any


def calibration_of(way: Way, generation: Generation, key: dict[str, Any], cache_dir: str) -> Calibration:
    """The uncached run that a way's recorders look at; key: what its trajectories depend on apart from the seeds."""
    return Calibration(generation, key, way.calibration_seed, way.calibration_samples, way.batch_size, Path(cache_dir))


def make_plan(way: Way, model: ModelConfig, calibration: Calibration) -> Plan:
    """Turn the settings into masks; what needs a calibration run is measured only if a setting asks for it."""
    planner = Planner(way, model, calibration)
    situation = planner.situation()
    mask, skip_threshold = mask_of(way, situation), way.schedule.skip_threshold(situation)
    if skip_threshold is None:
        report_ratio(way, mask)
    plan = planner.plan(mask, skip_threshold)
    warn_of_divergence(plan)
    warn_of_reuse(plan)
    return plan


def mask_of(way: Way, situation: Situation) -> Tensor:
    """A way's mask at its site; raises ConfigError for what is none, as another people's schedule may give."""
    mask, shape = way.schedule.mask(situation), (situation.steps, situation.depth, BRANCHES)
    is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == shape
    if not is_mask or mask[0].any():
        found = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ConfigError(
            f"schedule={way.schedule.name}: its mask must be torch.bool {list(shape)} with nothing cached in step 0, "
            f"not {'one that caches there' if is_mask else found}"
        )
    return at_site(way, mask)


def at_site(way: Way, mask: Tensor) -> Tensor:
    """A schedule's mask [steps, blocks, 2] at the way's site: as it is, or [steps, 1, 1]; raises ConfigError."""
    if way.site != "stack":
        return mask
    if not is_whole_steps(mask):
        raise ConfigError(
            f"site=stack: schedule={way.schedule.name} caches some cells of a step and computes others; "
            "use site=branch, or a schedule of whole steps"
        )
    return mask[:, :1, :1]


def correction(
    way: Way, mask: Tensor, alignment: Callable[[], Tensor], products: Callable[[], Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Where a mask's predictions are corrected (None: everywhere), and the alignment that says so, if any does.

    alignment, products: what a calibration measures for the mask's cells, asked for where the way needs it.
    """
    if way.correct_steps is not None:
        return correct_at(way.correct_steps, tuple(mask.shape)), None
    if way.inflection_threshold is None:
        return None, None
    measured = span_alignment(products(), mask) if way.inflection_signal == "span" else alignment()
    return ~inflections(measured, way.inflection_threshold, way.inflection_scope == "cell"), measured


@dataclass(frozen=True)
class Planner:
    """Makes plans of one way for any mask, and what a schedule may ask to choose one."""

    way: Way
    model: ModelConfig
    calibration: Calibration

    @property
    def site(self) -> Site:
        return "stack" if self.way.site == "stack" else "branch"

    @property
    def clock(self) -> list[float] | None:
        """A number for each evaluation; None = the step index."""
        return self.calibration.generation.solver.grid.log_snr.tolist() if self.way.clock == "logsnr" else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a mask: evaluations, blocks, branches."""
        depth = self.calibration.generation.model.depth
        return (self.way.num_evaluations, 1, 1) if self.site == "stack" else (self.way.num_evaluations, depth, BRANCHES)

    def situation(self) -> Situation:
        """What a schedule may depend on."""
        way, model, generation = self.way, self.model, self.calibration.generation
        return Situation(
            steps=way.num_evaluations,
            depth=generation.model.depth,
            cache_ratio=way.cache_ratio or 0.0,
            model=model.name,
            sampler=way.sampler.name,
            router=self.placed(model.routers),
            branch_errors=self.branch_errors,
            input_changes=self.input_changes,
            magnitude_ratios=self.magnitude_ratios,
            products=lambda: self.products,
            search=self.search,
            extrapolates=way.predictor.extrapolates,
            clock=self.clock,
        )

    def branch_errors(self, lookahead: int) -> Tensor:
        """SmoothCache's calibration, [steps, lookahead, 2]."""
        evaluations, depth = self.way.num_evaluations, self.calibration.generation.model.depth
        recorder = ErrorRecorder((evaluations, depth, BRANCHES), lookahead, self.calibration.generation.device)
        return self.calibration.measured("errors", recorder, recorder.errors, lookahead=lookahead)

    def input_changes(self) -> Tensor:
        """TeaCache's calibration, [steps]."""
        recorder = InputChangeRecorder(self.way.num_evaluations)
        return self.calibration.measured("changes", recorder, recorder.changes)

    def magnitude_ratios(self) -> Tensor:
        """MagCache's calibration, [steps]."""
        recorder = MagnitudeRecorder(self.way.num_evaluations)
        return self.calibration.measured("magnitudes", recorder, recorder.ratios)

    @cached_property
    def products(self) -> Tensor:
        """Inner products of every two steps' features, [steps, steps, blocks, 2]."""
        recorder = ProductRecorder(self.shape, self.site, self.calibration.generation.device)
        calibration = replace(self.calibration, batch_size=min(self.calibration.batch_size, PRODUCTS_BATCH))
        return calibration.measured("products", recorder, recorder.products, site=self.site)

    @cached_property
    def alignment(self) -> Tensor:
        """How well each step's change continues the one before, [steps, blocks, 2]."""
        recorder = AlignmentRecorder(self.shape, self.site, self.calibration.generation.device)
        return self.calibration.measured("alignment", recorder, recorder.alignment, site=self.site)

    def correction(self, mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where a mask's predictions are corrected (None: everywhere), and the alignment that says so, if any does."""
        return correction(self.way, mask, lambda: self.alignment, lambda: self.products)

    def trained_for(self) -> dict[str, Any]:
        """What learned weights must have been trained for, besides their schedule."""
        key = self.calibration.key
        guided = ("cfg_scale", "cfg_channels") if key.get("cfg_scale") != 1.0 else ("cfg_scale",)
        names = {"model_sha256": "weights", **{name: name for name in ("sampler", "steps", *guided)}}
        return {"site": self.site, **{name: key.get(source) for name, source in names.items()}}

    def plan(self, mask: Tensor, skip_threshold: float | None = None) -> Plan:
        """The way's plan with this mask, bool [steps, blocks, 2], or [steps, 1, 1] at site "stack"."""
        learned = None
        if self.way.predictor.trained:
            if not is_whole_steps(mask):
                raise ConfigError(
                    f"predictor=learned: must have a schedule of whole steps, not {self.way.schedule.name}"
                )
            learned = self.way.predictor.learned(self.trained_for(), computed_steps_of(mask), len(mask))
        correct, alignment = self.correction(mask)
        return Plan(self.way, self.site, mask, correct, alignment, self.clock, skip_threshold, learned)

    def search(self, count: int, evaluations: int, samples: int) -> Steps:
        """The schedule of `count` computed evaluations that a search finds, or found before for the shipped file."""
        way = self.way
        _, depth, branches = self.shape

        def cache_of(schedule: Steps) -> Callable[[], ScheduledCache]:
            return self.plan(computing(schedule, way.num_evaluations, depth)[:, :, :branches]).new_cache

        depends_on = SEARCH_DEPENDS_ON + (() if way.inflection_threshold is None else GATING)
        method = {
            "predictor": asdict(way.predictor),
            **{key: getattr(way, key) for key in depends_on if getattr(way, key) is not None},
        }
        shipped = self.placed(self.model.schedules, count)
        calibration = replace(self.calibration, samples=samples)
        return searched(calibration, cache_of, count, evaluations, method, shipped)

    def placed(self, template: str | None, computed: int | None = None) -> str | None:
        """Where one of the model's own files would lie, for the way and so many computed evaluations."""
        cfg_scale = self.calibration.generation.cfg_scale
        return template and place(template, self.way, self.model.name, cfg_scale, computed)
