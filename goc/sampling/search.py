"""A searched schedule: which steps to compute, tried out on calibration seeds, and kept on disk try by try."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from goc.caching.cache import StepCache
from goc.models.plans import read_plan
from goc.models.schedules import write_schedule
from goc.sampling.annealing import annealing
from goc.sampling.calibrate import Calibration
from goc.sampling.distance import relative_distances
from goc.sampling.local_search import Search, Steps, local_search
from goc.sampling.shared import shared_path
from goc.system.files import read_json, room_for, write_json
from goc.system.locks import Lock
from goc.system.sealed import json_sha256
from goc.system.stopping import keeping

KIND = "search"
TRIED = "the schedules tried so far are kept"
SHA256 = "sha256"  # of all else in a file; those of an older version have none

P = TypeVar("P", str, Path)

log = logging.getLogger(__name__)


@torch.inference_mode()
def final_latents(calibration: Calibration, new_cache: Callable[[], StepCache] | None) -> Tensor:
    """The last x [samples, C, H, W] of the calibration's, finite or not; new_cache None caches nothing."""
    latents, batches = [], calibration.batches()
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


def searched(
    calibration: Calibration,
    cache_of: Callable[[Steps], Callable[[], StepCache]],
    count: int,
    evaluations: int,
    method: dict[str, Any],
    shipped: str | None = None,
    how: str = "local",
) -> Steps:
    """The schedule of `count` computed evaluations whose samples end closest to the uncached ones.

    How far they do is measured on the calibration's samples for each schedule that is tried, `evaluations` in all; how:
    see `moves_and_loss`.

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
    moves, loss = moves_and_loss(how)
    asked = json.loads(json.dumps({**key, "schedules": evaluations}))
    path = shared_path(calibration.cache_dir, KIND, {**key, "computed": count}).with_suffix(".json")
    found_path = path.with_name(f"{path.stem}-found{evaluations}.json")
    if shipped is not None and (own := _found(shipped, read_plan, asked, count)) is not None:
        return own
    if (own := _found(found_path, _whole, asked, count)) is not None:
        return own
    if found_path.exists():
        log.warning("%s is damaged, or of another search: it is made again", found_path)
    with Lock(path.with_suffix(".lock")), keeping(f"{TRIED}; the same command goes on from there"):
        known = _known(path, key)
        target = None  # made when the first schedule is tried
        with tqdm(total=evaluations, desc=f"schedule search, {count} of {steps}", unit="schedule") as progress:

            def objective(schedule: Steps) -> float:
                nonlocal target
                name = ",".join(map(str, schedule))
                if name not in known:
                    target = final_latents(calibration, None) if target is None else target
                    distance = loss(final_latents(calibration, cache_of(schedule)), target).item()
                    known[name] = distance if math.isfinite(distance) else math.inf
                    with room_for(path, TRIED):
                        write_json(path, summed({"key": key, "distances": _without_infinity(known)}))
                progress.update()
                return known[name]

            found, distance = moves(objective, steps, count, evaluations, calibration.seed)
            # of the denoiser, guided if that is asked for
            evaluated = calibration.samples * (steps + count * int(progress.n))
    content = {"distance": distance, "denoiser_evaluations": evaluated, "searched": asked}
    checksum = summed({"evaluations": steps, "computed": found, **content})[SHA256]
    with room_for(found_path, TRIED):
        write_schedule(found_path, steps, found, **content, **{SHA256: checksum})
    return found


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


def _found(path: P, read: Callable[[P], Any], asked: dict[str, Any], count: int) -> Steps | None:
    """The schedule in a file of `searched`, if it is there and of this very search."""
    try:
        content = read(path)
        found = tuple(content["computed"]) if content.get("searched") == asked else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if len(found) == count else None


def _known(path: Path, key: dict[str, Any]) -> dict[str, float]:
    """Distances that an earlier search of a key measured, by schedule."""
    try:
        content = _whole(path)
        if content["key"] == json.loads(json.dumps(key)):
            found = content["distances"].items()
            return {name: math.inf if distance is None else float(distance) for name, distance in found}
        reason = "is of another search"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"is damaged ({error})"
    log.warning("%s %s: it is made again", path, reason)
    return {}


def _without_infinity(distances: dict[str, float]) -> dict[str, float | None]:
    """Distances as JSON has them."""
    return {name: distance if math.isfinite(distance) else None for name, distance in distances.items()}
