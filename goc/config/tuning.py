"""Which of the samples that are scored a run's method was tuned on: its numbers flatter it there."""

from collections.abc import Iterator

from goc.config.identity import files_of
from goc.config.settings import Measurement, Way
from goc.models.plans import read_plan
from goc.system.files import resolve

ROUTER = (".pt", ".pth", ".ckpt")


def tuned_on(way: Way, measurement: Measurement) -> dict[str, int]:
    """How many of a run's samples each of the things that tuned its method saw, by a few words for it.

    Samples are known by their seed and their place. A file says itself what it was made on, if this project made it.
    Calibrations of a pipeline draw noise of their own from a seed, so that they share no sample with a run.
    """
    if measurement.model.is_pipeline:
        return {}
    saw = dict[str, int]()
    for what, seed, count in _saw(way, measurement):
        if seed == measurement.seed:  # a front's file says of its search and of its training
            saw[what] = max(saw.get(what, 0), min(count, measurement.num_samples))
    return saw


def calibrated_on(way: Way) -> tuple[int, int] | None:
    """The seed that a normalised way calibrates or searches on, and how many samples of it; None if it does not."""
    schedule = way.schedule
    if not way.calibrates and way.inflection_threshold is None:
        return None
    searched = schedule.searched_samples()
    gated = way.inflection_threshold is not None or way.predictor.calibrates
    looks = gated or schedule.also_calibrates or not searched
    return way.calibration_seed, max(way.calibration_samples if looks else 0, searched)


def _saw(way: Way, measurement: Measurement) -> Iterator[tuple[str, int, int]]:
    """What tunes a normalised way's method, with its seed and how many samples of that it sees."""
    if (calibrated := calibrated_on(way)) is not None:
        yield f"calibration_seed={way.calibration_seed}", *calibrated
    # weights and the schedule that they are of are one file; one that stands in for a search is of the calibration seed
    files = {path: setting for setting, path in files_of(way, measurement)}
    searching = way.schedule.calibrates()
    for path, setting in files.items():
        if searching and setting.startswith("schedule."):
            continue
        for seed, samples in _made_on(path):
            yield f"{setting}={path}", seed, samples


def _made_on(path: str) -> list[tuple[int, int]]:
    """Seeds and numbers of samples that a file says its search or training was made on."""
    if path.endswith(ROUTER):
        from goc.models.routers import trained_on  # torch

        training = trained_on(resolve(path))
        return [] if training is None else [training]
    try:
        content = read_plan(path)
        parts = [content[part] for part in ("searched", "training") if part in content]
        return [(int(part["seed"]), int(part["samples"]) + int(part.get("held", 0))) for part in parts]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # it says nothing, or will be refused
