"""A searched schedule: which steps to compute, tried out on calibration seeds, and kept on disk try by try."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from goc.caching.cache import StepCache
from goc.models.plans import read_plan
from goc.models.schedules import write_schedule
from goc.sampling.calibrate import Calibration
from goc.sampling.distance import relative_distances
from goc.sampling.local_search import Steps, local_search
from goc.sampling.shared import is_key, shared_path
from goc.system.files import read_json, room_for, write_json
from goc.system.locks import Lock
from goc.system.stopping import keeping

KIND = "search"
TRIED = "the schedules tried so far are kept"

log = logging.getLogger(__name__)


@torch.inference_mode()
def final_latents(calibration: Calibration, new_cache: Callable[[], StepCache] | None) -> Tensor:
    """The last x [samples, C, H, W] of the calibration's, finite or not; new_cache None computes everything."""
    latents, batches = [], calibration.batches()
    for indices in tqdm(batches, desc="calibration samples", unit="batch", leave=False, disable=len(batches) < 2):
        _, trajectory = calibration.seeded().trajectory(indices, new_cache() if new_cache else None)
        *_, x = trajectory
        latents.append(x)
    return torch.cat(latents)


def mean_distance(latents: Tensor, target: Tensor) -> Tensor:
    """Mean over samples of |x - target| / |target|, both [N, C, H, W]."""
    return relative_distances(latents, target).mean()


def searched(
    calibration: Calibration,
    cache_of: Callable[[Steps], Callable[[], StepCache]],
    count: int,
    evaluations: int,
    method: dict[str, Any],
    shipped: str | None = None,
) -> Steps:
    """The schedule of `count` computed evaluations whose samples end closest to the uncached ones.

    The mean of the samples' relative distances is measured on the calibration's for each schedule that is tried,
    `evaluations` in all.

    cache_of: from a schedule to what makes its cache. method: all that the distances depend on besides the uncached
    run. shipped: a file that may hold what this very search found. Every distance is on disk at once, so that a stopped
    search goes on, and a longer one continues a shorter; of several processes one searches, and the others wait. Shows
    progress, rate and ETA. What was found lies as a schedule's file beside the distances.
    """
    steps = len(calibration.generation.solver.grid)
    run = {name: value for name, value in calibration.key.items() if name not in ("batch_size", "compile")}  # rounding
    key = {**run, "method": method, "seed": calibration.seed, "samples": calibration.samples}
    asked = json.loads(json.dumps({**key, "schedules": evaluations}))
    path = shared_path(calibration.cache_dir, KIND, {**key, "computed": count}).with_suffix(".json")
    found_path = path.with_name(f"{path.stem}-found{evaluations}.json")
    for file in (shipped, str(found_path)):
        if (found := _found(file, asked, count)) is not None:
            return found
    with Lock(path.with_suffix(".lock")), keeping(f"{TRIED}; the same command goes on from there"):
        known = _known(path, key)
        target = None  # made when the first schedule is tried
        with tqdm(total=evaluations, desc=f"schedule search, {count} of {steps}", unit="schedule") as progress:

            def objective(schedule: Steps) -> float:
                nonlocal target
                name = ",".join(map(str, schedule))
                if name not in known:
                    target = final_latents(calibration, None) if target is None else target
                    distance = mean_distance(final_latents(calibration, cache_of(schedule)), target).item()
                    known[name] = distance if math.isfinite(distance) else math.inf
                    with room_for(path, TRIED):
                        write_json(path, {"key": key, "distances": known})
                progress.update()
                return known[name]

            found, distance = local_search(objective, steps, count, evaluations, calibration.seed)
            # of the denoiser, guided if that is asked for
            evaluated = calibration.samples * (steps + count * int(progress.n))
    with room_for(found_path, TRIED):
        write_schedule(found_path, steps, found, distance=distance, denoiser_evaluations=evaluated, searched=asked)
    return found


def _found(path: str | None, asked: dict[str, Any], count: int) -> Steps | None:
    """The schedule in a file of `searched`, if it is there and of this very search."""
    try:
        content = read_plan(path) if path else {}
        found = tuple(content["computed"]) if content.get("searched") == asked else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if len(found) == count else None


def _known(path: Path, key: dict[str, Any]) -> dict[str, float]:
    """Distances that an earlier search of the same key measured, by schedule."""
    try:
        content = read_json(path)
        distances = content["distances"]
        if not is_key(content["key"], key):
            log.warning("%s is of something else than its name says: it is made again", path)
            return {}
        return {name: math.inf if distance is None else distance for name, distance in distances.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
