"""A method by its name and settings as keywords, and its plan for one pipeline call."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from goc.config.named import unset
from goc.config.settings import Way
from goc.config.validation import check_for_pipelines, check_way, normalise
from goc.methods import METHODS, SELECTIONS
from goc.pipelines.clock import log_snr, noise_to_signal
from goc.pipelines.session import PipelineError, Run
from goc.planning.plan import Plan
from goc.planning.planner import Planner
from goc.planning.warnings import report_ratio, warn_of_divergence, warn_of_reuse
from goc.sampling.noise import TRAINING_STEPS
from goc.sampling.options import SchedulerConfig
from goc.system.errors import ConfigError
from goc.system.plugins import load_plugins

GATING = ("inflection_threshold", "inflection_signal", "inflection_scope")
OF_A_WAY = ("gradient_weights", "correct_steps", "site", "clock", *GATING)
SELECTION = "selection"  # an option by its name, whose settings are keywords as well
LONGEST = TRAINING_STEPS  # steps that settings are checked with before a call says how many there are

log = logging.getLogger(__name__)


def method_names() -> list[str]:
    """The methods that work in a pipeline."""
    return sorted(name for name, method in METHODS.items() if method.in_pipelines)


def way_of(method: str, cache_ratio: float | None, steps: int, settings: Mapping[str, Any]) -> Way:
    """The way of a method's name with settings by their names; raises ConfigError on one that cannot be run."""
    load_plugins()
    chosen = METHODS.get(method)
    if chosen is None:
        raise ConfigError(f"method={method}: must be one of {', '.join(method_names())}")
    if chosen.trained:
        raise ConfigError(
            f"method={method}: needs what was trained for a model, which there is none of for a pipeline's; "
            f"must be one of {', '.join(method_names())}"
        )
    way = unset(chosen, SchedulerConfig(), steps)
    check_for_pipelines(way)
    settings = dict(settings)
    if SELECTION in settings:
        selection = str(settings.pop(SELECTION))
        if selection not in SELECTIONS:
            raise ConfigError(f"selection={selection}: must be one of {', '.join(sorted(SELECTIONS))}")
        way.selection = SELECTIONS[selection]()
    owners: dict[str, Any] = dict.fromkeys((*OF_A_WAY, SELECTION), way)
    for part in (way.schedule, way.predictor, way.selection):
        owners |= {f.name: part for f in fields(part) if f.name != "name"}
    for key, value in settings.items():
        if key not in owners:
            raise ConfigError(f"{key}={value}: method={method} has no such setting; it has {', '.join(sorted(owners))}")
        setattr(owners[key], key, typed(owners[key], key, value))
    way.cache_ratio = typed(way, "cache_ratio", cache_ratio)
    way.steps = typed(way, "steps", steps)
    normalise(way)
    check_way(way)
    return way


def typed(part: object, key: str, value: Any) -> Any:
    """A value as the setting's type has it, as on run.py's command line; raises ConfigError where it is of another."""
    try:
        node = OmegaConf.structured(type(part))
        node[key] = _plain(value)
        return node[key] if not isinstance(node[key], ListConfig) else OmegaConf.to_object(node[key])
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{key}={value}: {str(error).splitlines()[0]}") from error


def _plain(value: Any) -> Any:
    """A value without the types of numpy and torch, a tuple as a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def check_uncalibrated(way: Way, method: str) -> None:
    """Raise ConfigError where a method is measured in a calibration, and there is no plan."""
    if way.schedule.calibrates():
        raise ConfigError(
            f"method={method}: schedule={way.schedule.name} is measured: plan = goc.calibrate(pipe, prompts, "
            f"method={method!r}, ...), and then goc.enable_cache(pipe, plan=plan)"
        )


@dataclass(frozen=True)
class PipelineCall:
    """What a planner must know of a pipeline's call before anything is measured. run: the call, or one like it."""

    way: Way
    run: Run
    model = "the pipeline"
    router = None

    @property
    def steps(self) -> int:
        return self.run.steps

    @property
    def depth(self) -> int:
        return self.run.layout.depth

    @property
    def sampler(self) -> str:
        return type(self.run.scheduler).__name__

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.run.layout.shape(self.run.steps)

    def log_snr(self) -> list[float]:
        return log_snr(self.run.scheduler, self.run.timesteps)

    def noise_to_signal(self) -> list[float]:
        return noise_to_signal(self.run.scheduler, self.run.timesteps)

    def spread(self, mask: Tensor) -> Tensor:
        return self.run.layout.spread(mask)

    def missing(self, *_: Any) -> NoReturn:
        """Raise ConfigError: only a calibration tells."""
        raise ConfigError(f"schedule={self.way.schedule.name}: needs a calibration, see goc.calibrate")

    trained_for = times = missing  # methods that need them are refused before


@dataclass(frozen=True)
class Unmeasured(PipelineCall):
    """`goc.planning.planner.Measurements` of a pipeline's call of which nothing was measured."""

    branch_errors = input_changes = magnitude_ratios = products = alignment = search = PipelineCall.missing


def plan_with(way: Way, run: Run, mask: Tensor, skip_threshold: float | None, correct: Tensor | None) -> Plan:
    """A way's plan with the mask of its site, [evaluations, blocks, 2] or [.., 1, 1], spread over the run's places.

    correct: as the plan's own masks, [steps, places, OUTPUTS].
    """
    if correct is not None and tuple(correct.shape) != run.layout.shape(run.steps):
        raise PipelineError("plan: is for other places in the transformer; calibrate anew")
    planner = Planner(way, Unmeasured(way, run))
    plan = Plan(
        way, run.layout.site, run.layout.spread(mask), correct, None, planner.clock, skip_threshold,
        interval=planner.interval(mask),
    )  # fmt: skip
    if skip_threshold is None:
        report_ratio(way, mask)
    warn_of_divergence(plan)
    warn_of_reuse(plan)
    return plan


def uncalibrated_plan(way: Way, run: Run) -> Plan:
    """The plan of a way for a pipeline call, from its settings alone."""
    way.schedule.check(run.steps)
    return Planner(way, Unmeasured(way, run)).make()


def warn_of_gating(way: Way) -> None:
    """Say that corrections are not gated where nothing was measured."""
    if way.predictor.queue and way.correct_steps is None:
        log.warning("corrections are on at every cached step: gates are measured, by plan = goc.calibrate(pipe, ...)")


def gates(settings: Mapping[str, Any], method: str) -> None:
    """Raise PipelineError where gates are asked for that only a calibration can measure."""
    if settings.get("inflection_threshold") is not None:
        raise PipelineError(
            f"inflection_threshold={settings['inflection_threshold']}: is compared with what a calibration measures: "
            f"plan = goc.calibrate(pipe, prompts, method={method!r}, ...)"
        )
