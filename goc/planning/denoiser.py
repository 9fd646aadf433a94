"""What a plan needs of a denoiser, from a calibration run without a cache."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from goc.caching.calibration import (
    AlignmentRecorder,
    ErrorRecorder,
    InputChangeRecorder,
    MagnitudeRecorder,
    ProductRecorder,
)
from goc.caching.halves import guided_at, halves
from goc.config import ModelConfig, Way
from goc.config.validation import fill
from goc.models.network import BRANCHES, Site
from goc.planning.plan import Plan
from goc.planning.planner import Cells, Planner, Search
from goc.sampling.calibrate import Calibration
from goc.sampling.generation import Generation
from goc.sampling.local_search import Steps
from goc.sampling.search import HALVING, searched

PRODUCTS_BATCH = 4  # samples whose features of all steps are held together
# of a way, what a schedule's distance to the target depends on besides its predictor
SEARCH_DEPENDS_ON = ("gradient_weights", "correct_steps", "site", "clock")
GATING = ("inflection_threshold", "inflection_signal", "inflection_scope", "calibration_samples")  # if there is any


def calibration_of(way: Way, generation: Generation, key: dict[str, Any], cache_dir: str) -> Calibration:
    """The uncached run that a way's recorders look at; key: what its trajectories depend on apart from the seeds."""
    split = None
    if way.guidance_interval is not None:  # the way's trajectories are other ones, with caches or without
        sigmas = np.exp(-generation.solver.grid.log_snr).tolist()
        split = halves(guided_at(sigmas, way.guidance_interval), [False] * len(sigmas))
        key = {**key, "guidance_interval": way.guidance_interval}
    samples, size = way.calibration_samples, way.batch_size
    return Calibration(generation, key, way.calibration_seed, samples, size, Path(cache_dir), split)


def planner_of(way: Way, model: ModelConfig, calibration: Calibration) -> Planner:
    """The planner of a way on a denoiser."""
    return Planner(way, DenoiserMeasurements(way, model, calibration))


def make_plan(way: Way, model: ModelConfig, calibration: Calibration) -> Plan:
    """Turn the settings into masks; what needs a calibration run is measured only if a setting asks for it."""
    return planner_of(way, model, calibration).make()


@dataclass(frozen=True)
class DenoiserMeasurements:
    """`goc.planning.planner.Measurements` of a denoiser, kept on disk by all that they depend on."""

    way: Way
    settings: ModelConfig
    calibration: Calibration

    @property
    def steps(self) -> int:
        return self.way.num_evaluations

    @property
    def depth(self) -> int:
        return self.calibration.generation.model.depth

    @property
    def model(self) -> str:
        return self.settings.name

    @property
    def sampler(self) -> str:
        return self.way.sampler.name

    @property
    def router(self) -> str | None:
        return self.path_of(self.settings.routers)

    @property
    def site(self) -> Site:
        return cast(Site, self.way.site)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a mask: evaluations, blocks, branches."""
        return (self.steps, 1, 1) if self.site == "stack" else (self.steps, self.depth, BRANCHES)

    def times(self) -> list[float]:
        return self.calibration.generation.solver.grid.times.tolist()

    def log_snr(self) -> list[float]:
        return self.calibration.generation.solver.grid.log_snr.tolist()

    def noise_to_signal(self) -> list[float]:
        return np.exp(-self.calibration.generation.solver.grid.log_snr).tolist()

    def spread(self, mask: Tensor) -> Tensor:
        return mask

    def branch_errors(self, lookahead: int) -> Tensor:
        recorder = ErrorRecorder((self.steps, self.depth, BRANCHES), lookahead, self.calibration.generation.device)
        return self.calibration.measured("errors", recorder, recorder.errors, lookahead=lookahead)

    def input_changes(self) -> Tensor:
        recorder = InputChangeRecorder(self.steps)
        return self.calibration.measured("changes", recorder, recorder.changes)

    def magnitude_ratios(self) -> Tensor:
        recorder = MagnitudeRecorder(self.steps)
        return self.calibration.measured("magnitudes", recorder, recorder.ratios)

    def products(self) -> tuple[Tensor, Cells]:
        return self._products, None

    @cached_property
    def _products(self) -> Tensor:
        recorder = ProductRecorder(self.shape, self.site, self.calibration.generation.device)
        calibration = replace(self.calibration, batch_size=min(self.calibration.batch_size, PRODUCTS_BATCH))
        return calibration.measured("products", recorder, recorder.products, site=self.site)

    def alignment(self) -> tuple[Tensor, Cells]:
        return self._alignment, None

    @cached_property
    def _alignment(self) -> Tensor:
        recorder = AlignmentRecorder(self.shape, self.site, self.calibration.generation.device)
        return self.calibration.measured("alignment", recorder, recorder.alignment, site=self.site)

    def trained_for(self) -> dict[str, Any]:
        key = self.calibration.key
        guided = ("cfg_scale", "cfg_channels") if key.get("cfg_scale") != 1.0 else ("cfg_scale",)
        names = {"model_sha256": "weights", **{name: name for name in ("sampler", "steps", *guided)}}
        return {"site": self.site, **{name: key.get(source) for name, source in names.items()}}

    def search(self, plan_of: Callable[[Steps], Plan], asked: Search) -> Steps:
        """As `goc.planning.planner.Measurements`; or found before, for the shipped file."""
        return tuple(self.search_file(plan_of, asked)["computed"])

    def search_file(self, plan_of: Callable[[Steps], Plan], asked: Search) -> dict[str, Any]:
        """What the search leaves: the schedule, how far it ends, and what else `goc.sampling.search.searched` says."""
        way = self.way
        depends_on = SEARCH_DEPENDS_ON + (() if way.inflection_threshold is None else GATING)
        method = {
            "predictor": way.predictor.settings(),
            **({"selection": asdict(way.selection)} if way.selection.selects else {}),
            **{key: getattr(way, key) for key in depends_on if getattr(way, key) is not None},
            **way.guidance,
        }
        computed, evaluations, samples, how, known = asked
        shipped = self.path_of(self.settings.schedules, computed)
        spent = self.calibration.samples * self.steps if how == HALVING else 0  # on the known schedules
        calibration = replace(self.calibration, samples=samples)
        return searched(
            calibration, lambda schedule: plan_of(schedule).new_cache, computed, evaluations, method, shipped, how,
            known, spent,
        )  # fmt: skip

    def path_of(self, template: str | None, computed: int | None = None) -> str | None:
        """Where one of the model's own files would lie, for the way and so many computed evaluations."""
        cfg_scale = self.calibration.generation.cfg_scale
        return template and fill(template, self.way, self.settings.name, cfg_scale, computed)
