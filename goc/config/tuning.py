"""Which of the samples that are scored a run's method was tuned on: its numbers flatter it there."""

from pathlib import Path
from typing import Any

from goc.config.settings import Measurement, Way
from goc.config.validation import place
from goc.methods import L2C, FoundSchedule, LearnedConfig, Searched
from goc.system.files import read_json, resolve


def tuned_on(way: Way, measurement: Measurement) -> dict[str, int]:
    """How many of a run's samples each of the things that tuned its method saw, by a few words for it.

    Samples are known by their seed and their place. A file says itself what it was made on, if this project made it.
    Calibrations of a pipeline draw noise of their own from a seed, so that they share no sample with a run.
    """
    if measurement.model.is_pipeline:
        return {}
    saw = {what: count for what, seed, count in _saw(way, measurement) if seed == measurement.seed}
    return {what: min(count, measurement.num_samples) for what, count in saw.items()}


def calibrated_on(way: Way) -> tuple[int, int] | None:
    """The seed that a normalised way calibrates or searches on, and how many samples of it; None if it does not."""
    schedule = way.schedule
    if not schedule.calibrates() and way.inflection_threshold is None:
        return None
    searched = schedule.search_samples if isinstance(schedule, Searched) and schedule.calibrates() else 0
    gated = way.inflection_threshold is not None or not searched
    return way.calibration_seed, max(way.calibration_samples if gated else 0, searched)


def _saw(way: Way, measurement: Measurement) -> list[tuple[str, int, int]]:
    """What tunes a normalised way's method, with its seed and how many samples of that it sees."""
    found, schedule = [], way.schedule
    if (calibrated := calibrated_on(way)) is not None:
        found.append((f"calibration_seed={way.calibration_seed}", *calibrated))
    learned = way.predictor.path if isinstance(way.predictor, LearnedConfig) else None
    if learned is not None:
        found += _said(f"predictor.path={learned}", learned)
    if isinstance(schedule, FoundSchedule) and schedule.path not in (None, learned):
        found += _said(f"schedule.path={schedule.path}", str(schedule.path))
    if isinstance(schedule, L2C):
        named = schedule.router
        if named is None and measurement.model.routers is not None:
            named = place(measurement.model.routers, way, measurement.model.name, measurement.cfg_scale)
        if named is not None:
            found += _router(f"schedule.router={named}", resolve(named))
    return found


def _said(what: str, path: str) -> list[tuple[str, int, int]]:
    """What a file of a schedule or of weights says of its search or training."""
    try:
        content = read_json(resolve(path))
        parts = [content[part] for part in ("searched", "training") if part in content]
        return [(what, int(part["seed"]), int(part["samples"])) for part in parts]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # it says nothing, or will be refused


def _router(what: str, path: Path) -> list[tuple[str, int, int]]:
    from goc.models.routers import trained_on  # torch

    found: Any = trained_on(path)
    return [] if found is None else [(what, *found)]
