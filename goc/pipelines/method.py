"""A method by its name and settings as keywords, and its plan for one pipeline call."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from goc.caching.inflection import correct_at
from goc.config.settings import Way
from goc.config.validation import check_way, normalise
from goc.methods import METHODS, PREDICTORS, SCHEDULES, Situation
from goc.pipelines.clock import log_snr
from goc.pipelines.session import PipelineError, Run
from goc.planning.plan import Plan
from goc.planning.planner import mask_of
from goc.planning.warnings import report_ratio, warn_of_divergence, warn_of_reuse
from goc.sampling.noise import TRAINING_STEPS
from goc.sampling.options import SchedulerConfig
from goc.system.errors import ConfigError
from goc.system.plugins import load_plugins

GATING = ("inflection_threshold", "inflection_signal", "inflection_scope")
OF_A_WAY = ("gradient_weights", "correct_steps", "site", "clock", *GATING)
LONGEST = TRAINING_STEPS  # steps that settings are checked with before a call says how many there are

log = logging.getLogger(__name__)


def method_names() -> list[str]:
    """The methods that work in a pipeline: those that need nothing trained for the model."""
    return sorted(name for name, method in METHODS.items() if not method.trained)


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
    schedule, predictor = SCHEDULES[chosen.schedule](), PREDICTORS[chosen.predictor](**chosen.settings)
    way = Way(cache_ratio=cache_ratio, steps=steps, sampler=SchedulerConfig(), schedule=schedule,
              predictor=predictor, site=chosen.site, clock=chosen.clock)  # fmt: skip
    owners: dict[str, Any] = dict.fromkeys(OF_A_WAY, way)
    for part in (schedule, predictor):
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


def situation(way: Way, run: Run, **measured: Any) -> Situation:
    """What a schedule may depend on in a pipeline call; measured: the calibrations of a Situation, by name."""

    def missing(*_: Any) -> Any:
        raise ConfigError(f"schedule={way.schedule.name}: needs a calibration, see goc.calibrate")

    names = ("branch_errors", "input_changes", "magnitude_ratios", "products", "search")
    return Situation(
        steps=run.steps,
        depth=run.layout.depth,
        cache_ratio=way.cache_ratio or 0.0,
        model="the pipeline",
        sampler=type(run.scheduler).__name__,
        router=None,
        extrapolates=way.predictor.extrapolates,
        clock=clock_of(way, run),
        **{name: measured.get(name, missing) for name in names},
    )


def clock_of(way: Way, run: Run) -> list[float] | None:
    """A number for each step; None: the step index."""
    return log_snr(run.scheduler, run.timesteps) if way.clock == "logsnr" else None


def plan_with(
    way: Way, run: Run, mask: Tensor, skip_threshold: float | None, correct: Tensor | None, warn: bool = True
) -> Plan:
    """A way's plan with the mask of its site, [steps, blocks, 2] or [steps, 1, 1], spread over the run's places.

    correct: as the plan's own masks, [steps, places, OUTPUTS]. warn: of what cannot go well.
    """
    plan = Plan(way, run.layout.site, run.layout.spread(mask), correct, None, clock_of(way, run), skip_threshold)
    if warn and skip_threshold is None:
        report_ratio(way, mask)
    if warn:
        warn_of_divergence(plan)
        warn_of_reuse(plan)
    return plan


def uncalibrated_plan(way: Way, run: Run) -> Plan:
    """The plan of a way for a pipeline call, from its settings alone."""
    way.schedule.check(run.steps)
    asked = situation(way, run)
    mask = mask_of(way, asked)
    correct = None if way.correct_steps is None else correct_at(way.correct_steps, run.layout.shape(run.steps))
    return plan_with(way, run, mask, way.schedule.skip_threshold(asked), correct)


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
