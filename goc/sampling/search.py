"""A searched schedule: which steps to compute, tried out on calibration seeds, and kept on disk try by try."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from goc.caching.cache import StepCache
from goc.models.plans import as_text, read_plan
from goc.sampling.annealing import annealing
from goc.sampling.calibrate import Calibration
from goc.sampling.distance import relative_distances
from goc.sampling.halving import Measure, Race, halving
from goc.sampling.local_search import Search, Steps, local_search
from goc.sampling.shared import shared_path
from goc.system.files import content_key, read_json, room_for, write_json, write_text
from goc.system.locks import Lock
from goc.system.sealed import json_sha256
from goc.system.stopping import keeping

KIND = "search"
HALVING = "halving"
SURROGATE = "gaussian process"  # what proposes schedules to it, as its files say
RIVALS = 12  # of the schedule that was found, that are said beside it
DIGITS = 7  # of a distance, as it is kept
TRIED = "the schedules tried so far are kept"
SHA256 = "sha256"  # of all else in a file; those of an older version have none

P = TypeVar("P", str, Path)

log = logging.getLogger(__name__)


@torch.inference_mode()
def final_latents(
    calibration: Calibration, new_cache: Callable[[], StepCache] | None, indices: range | None = None
) -> Tensor:
    """The last x [samples, C, H, W] of the calibration's, finite or not; new_cache None caches nothing.

    indices: of the samples; None: the calibration's.
    """
    latents, batches = [], calibration.batches(indices)
    for indices in tqdm(batches, desc="calibration samples", unit="batch", leave=False, disable=len(batches) < 2):
        _, trajectory = calibration.seeded().trajectory(indices, new_cache() if new_cache else calibration.watched())
        *_, x = trajectory
        latents.append(x)
    return torch.cat(latents)


def mean_distance(latents: Tensor, target: Tensor) -> Tensor:
    """Mean over samples of |x - target| / |target|, both [N, C, H, W]."""
    return relative_distances(latents, target).mean()


def squared_error(latents: Tensor, target: Tensor) -> Tensor:
    """Mean of (x - target)^2, both [N, C, H, W]."""
    return (latents - target).square().mean()


def moves_and_loss(how: str) -> tuple[Search, Callable[[Tensor, Tensor], Tensor]]:
    """How a search goes on, and what of last latents and their target it makes small."""
    return {"local": (local_search, mean_distance), "annealing": (annealing, squared_error)}[how]


class Trials:
    """What calibration samples measure of schedules, kept on disk as it is measured.

    known: by schedule, a distance, or one for each of the samples so far.
    """

    def __init__(
        self,
        path: Path,
        key: dict[str, Any],
        calibration: Calibration,
        cache_of: Callable[[Steps], Callable[[], StepCache]],
    ) -> None:
        self.path, self.key, self.calibration, self.cache_of = path, key, calibration, cache_of
        self.known = _known(path, key)

    @cached_property
    def target(self) -> Tensor:
        """Where the samples end without a cache; made when the first schedule is tried."""
        return final_latents(self.calibration, None)

    @property
    def steps(self) -> int:
        return len(self.calibration.generation.solver.grid)

    def mean(self, schedule: Steps, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        """The loss of a schedule's samples; infinite where it is no number."""
        name = _name(schedule)
        if name not in self.known:
            target = self.target
            distance = loss(final_latents(self.calibration, self.cache_of(schedule)), target).item()
            self.known[name] = distance if math.isfinite(distance) else math.inf
            with room_for(self.path, TRIED):
                write_json(self.path, summed({"key": self.key, "distances": _without_infinity(self.known)}))
        return self.known[name]

    def each(self, schedule: Steps, indices: range) -> list[float]:
        """The relative distances of some of a schedule's samples, of which those before are measured."""
        distances = self.known.setdefault(_name(schedule), [])
        if missing := range(len(distances), indices.stop):
            target = self.target[missing.start : missing.stop]
            latents = final_latents(self.calibration, self.cache_of(schedule), missing)
            distances += [kept(distance) for distance in relative_distances(latents, target).tolist()]
            with room_for(self.path, TRIED):
                write_text(self.path, as_text(summed({"key": self.key, "distances": _without_infinity(self.known)})))
        return distances[indices.start : indices.stop]


def kept(distance: float) -> float:
    """A distance with the digits that are kept, so that a search that goes on goes on from the same."""
    return float(f"{distance:.{DIGITS}g}") if math.isfinite(distance) else math.inf


def by_moves(trials: Trials, count: int, asked: dict[str, Any]) -> dict[str, Any]:
    """What local search or annealing finds: each schedule is tried on all samples."""
    (moves, loss), evaluations = moves_and_loss(asked.get("how", "local")), asked["schedules"]
    with progress_bar(count, trials.steps, evaluations, "schedule") as progress:

        def objective(schedule: Steps) -> float:
            distance = trials.mean(schedule, loss)
            progress.update()
            return distance

        best, distance = moves(objective, trials.steps, count, evaluations, trials.calibration.seed)
        # of the denoiser, guided if that is asked for
        evaluated = trials.calibration.samples * (trials.steps + count * int(progress.n))
    return {"computed": list(best), "distance": distance, "denoiser_evaluations": evaluated}


def by_halving(trials: Trials, count: int, asked: dict[str, Any]) -> dict[str, Any]:
    """What halving finds, and the rivals of it that were tried on all samples."""
    samples, steps, known = trials.calibration.samples, trials.steps, [*map(tuple, asked["known"])]
    budget = budget_of(samples, asked["schedules"], asked["spent"], count)
    race = raced(trials.each, samples, budget, known, steps, count, trials.calibration.seed)
    best, *others = race.ranked()
    begun = [schedule for schedule in dict.fromkeys(known) if schedule in (best, *others)]

    def told(schedules: Sequence[Steps]) -> list[list[Any]]:
        return [[list(schedule), race.mean(schedule)] for schedule in schedules if math.isfinite(race.mean(schedule))]

    return {
        "computed": list(best),
        "distance": race.mean(best),
        "rivals": told(others[:RIVALS]),
        "begun_with": told(begun),
        "tried": len(race.distances),
        "denoiser_evaluations": samples * steps + count * (budget - race.left) + asked["spent"],
    }


def raced(
    measure: Measure, samples: int, budget: int, known: Sequence[Steps], steps: int, count: int, seed: int
) -> Race:
    """The race of `halving` at its end; shows progress, rate and ETA."""
    with progress_bar(count, steps, budget, "sample") as progress:

        def measured(schedule: Steps, indices: range) -> Sequence[float]:
            each = measure(schedule, indices)
            progress.update(len(indices))
            return each

        race = Race(measured, samples, budget)
        halving(race, known, steps, count, seed)
    return race


def budget_of(samples: int, evaluations: int, spent: int, count: int) -> int:
    """How many samples halving may make, with any schedule of `count` computed steps.

    As many as trying `evaluations` schedules on all samples, less `spent` evaluations of the denoiser; at least half of
    that, where these would leave less.
    """
    whole = evaluations * samples
    return max(whole - math.ceil(spent / count), whole // 2, samples)


def progress_bar(count: int, steps: int, total: int, unit: str) -> "tqdm[Any]":
    """Of a search for `count` computed evaluations of so many steps."""
    return tqdm(total=total, desc=f"schedule search, {count} of {steps}", unit=unit)


def searched(
    calibration: Calibration,
    cache_of: Callable[[Steps], Callable[[], StepCache]],
    count: int,
    evaluations: int,
    method: dict[str, Any],
    shipped: str | None = None,
    how: str = "local",
    known: Sequence[Steps] = (),
    spent: int = 0,
) -> dict[str, Any]:
    """The file of the schedule of `count` computed evaluations whose samples end closest to the uncached ones.

    How far they do is measured on the calibration's samples for each schedule that is tried, `evaluations` in all; how:
    see `moves_and_loss`. By halving it is measured on some of them for what is clearly worse: at most as many samples
    in all, less `spent` evaluations of the denoiser; known: schedules that it begins with.

    cache_of: from a schedule to what makes its cache. method: all that the distances depend on besides the uncached
    run. shipped: a file that may hold what this very search found. Every distance is on disk at once, so that a stopped
    search goes on, and a longer one continues a shorter; of several processes one searches, and the others wait. Shows
    progress, rate and ETA. What was found lies as a schedule's file beside the distances.
    """
    steps = len(calibration.generation.solver.grid)
    run = {name: value for name, value in calibration.key.items() if name not in ("batch_size", "compile")}  # rounding
    key = {**run, "method": method, "seed": calibration.seed, "samples": calibration.samples}
    if how != "local":  # which files of an older version do not say
        key["how"] = how
    search: dict[str, Any] = {"schedules": evaluations}
    if how == HALVING:
        search |= {"known": known, "spent": spent, "proposed": SURROGATE}
    asked = json.loads(json.dumps({**key, **search}))
    path = shared_path(calibration.cache_dir, KIND, {**key, "computed": count}).with_suffix(".json")
    named = f"{evaluations}-{content_key(search)[:8]}" if how == HALVING else f"{evaluations}"
    result_path = path.with_name(f"{path.stem}-found{named}.json")
    if shipped is not None and (content := _made_before(shipped, read_plan, asked, count)) is not None:
        return content
    if (content := _made_before(result_path, _whole, asked, count)) is not None:
        return content
    if result_path.exists():
        log.warning("%s is damaged, or of another search: it is made again", result_path)
    with Lock(path.with_suffix(".lock")), keeping(f"{TRIED}; the same command goes on from there"):
        trials = Trials(path, key, calibration, cache_of)
        tried = (by_halving if how == HALVING else by_moves)(trials, count, asked)
    content = summed({"evaluations": steps, **tried, "searched": asked})
    with room_for(result_path, TRIED):
        write_text(result_path, as_text(content))
    return content


def summed(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with the checksum of all that is in it."""
    return content | {SHA256: json_sha256(content)}


def _whole(path: Path) -> Any:
    """What is in such a file, or in one of an older version; raises ValueError, OSError or AttributeError."""
    content = read_json(path)
    checksum = content.pop(SHA256, None)
    if checksum not in (None, json_sha256(content)):
        raise ValueError("its checksum does not match")
    return content


def _made_before(path: P, read: Callable[[P], Any], asked: dict[str, Any], count: int) -> dict[str, Any] | None:
    """What is in a file of `searched`, if it is there and of this very search."""
    try:
        content = read(path)
        matches = content.get("searched") == asked and len(content["computed"]) == count
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if matches else None


def _known(path: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Distances that an earlier search of a key measured, by schedule."""
    try:
        content = _whole(path)
        if content["key"] == json.loads(json.dumps(key)):
            distances = content["distances"].items()
            return {name: _with_infinity(distance) for name, distance in distances}
        reason = "is of another search"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"is damaged ({error})"
    log.warning("%s %s: it is made again", path, reason)
    return {}


def _name(schedule: Steps) -> str:
    return ",".join(map(str, schedule))


def _without_infinity(distances: dict[str, Any]) -> dict[str, Any]:
    """Distances as JSON has them, of schedules or of their samples."""

    def plain(distance: Any) -> Any:
        if isinstance(distance, list):
            return [plain(one) for one in distance]
        return distance if math.isfinite(distance) else None

    return {name: plain(distance) for name, distance in distances.items()}


def _with_infinity(distance: Any) -> Any:
    """The inverse, of one entry."""
    if isinstance(distance, list):
        return [_with_infinity(one) for one in distance]
    return math.inf if distance is None else float(distance)
