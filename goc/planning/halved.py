"""A search by halving that begins with what was found for other numbers of evaluations, too."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from goc.caching.known import resized
from goc.config import ModelConfig, Way
from goc.methods.schedules import Halving, known_schedules
from goc.planning.denoiser import DenoiserMeasurements, planner_of
from goc.planning.planner import Planner, Search
from goc.sampling.calibrate import Calibration
from goc.sampling.local_search import Steps
from goc.sampling.search import HALVING
from goc.system.errors import ConfigError


def schedule_of(way: Way) -> Halving:
    """A way's schedule, by halving; raises ConfigError for another one, or one from a file."""
    schedule = way.schedule
    if not isinstance(schedule, Halving) or not schedule.calibrates():
        raise ConfigError(f"schedule={schedule.name}: must be {HALVING} here, without a path")
    return schedule


def at_count(way: Way, model: ModelConfig, calibration: Calibration, count: int) -> Planner:
    """The planner of a way with so many computed evaluations."""
    return planner_of(replace(way, cache_ratio=1 - count / way.num_evaluations), model, calibration)


def halved(
    way: Way,
    model: ModelConfig,
    calibration: Calibration,
    count: int,
    schedules: Sequence[Steps],
    first: Sequence[Steps] = (),
) -> dict[str, Any]:
    """The file of a search (`goc.sampling.search.searched`) of schedules with so many computed evaluations.

    schedules: with other numbers of them, that it begins with besides those that are known; first: before all others.
    """
    schedule, planner = schedule_of(way), at_count(way, model, calibration, count)
    others = (resized(steps, count, way.num_evaluations) for steps in schedules)
    begun = dict.fromkeys([*first, *known_schedules(planner.situation()), *others])
    measurements = planner.measurements
    assert isinstance(measurements, DenoiserMeasurements)
    asked = Search(count, schedule.search_evaluations, schedule.search_samples, HALVING, [*begun])
    return measurements.search_file(planner.computing, asked)
