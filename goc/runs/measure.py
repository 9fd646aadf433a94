"""From what a run has made to what it leaves: its result, its pictures, and its images if they are to be kept."""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from goc.caching.calibration import FIRST_GRADIENT_STEP
from goc.config import Config, Output, flat, label
from goc.config.settings import Way
from goc.config.tuning import calibrated_on, tuned_on
from goc.methods import SCHEDULES
from goc.metrics.distance import described, distance, relative_distances
from goc.metrics.evaluate import Scores, drift, evaluate, mean_score
from goc.metrics.features import Features
from goc.metrics.lpips import load_lpips, lpips_sha256
from goc.metrics.reference import Reference
from goc.metrics.registry import PLUGINS, plugins_of
from goc.models.schedules import write_schedule
from goc.planning.plan import Plan
from goc.planning.warnings import warn_of_distance
from goc.report.measurement import describe_measurement, describe_way
from goc.report.result import Result
from goc.report.results import FIRST_IMAGES, RESULT_FILE, SHOWN_IMAGES, git_commit, run_key, software, write_influence
from goc.sampling.converged import Converged
from goc.sampling.frames import FRAMES, count_of
from goc.sampling.generation import SampleSource
from goc.sampling.images import GRID_SAMPLES, image_grid, write_npz, write_pngs
from goc.sampling.pricing import latency, price
from goc.sampling.shards import SampleSet
from goc.system.files import content_key, replacing, room_for, write_json

log = logging.getLogger(__name__)

LPIPS = "lpips_sha256"  # of a result: of the weights that its LPIPS was measured with
SCHEDULE_FILE = "schedule.json"  # of a run whose schedule was found: what schedule.path takes


@dataclass(frozen=True)
class Generated:
    """What a run has made: its method, its samples, and the uncached ones it is compared with.

    Without caching the two are the same. fields: names of the features in the shards; scores: of metrics that each
    sample has a number of by itself, and their names there. peak_memory: of this process while it made the samples;
    empty values if nothing was left to make.
    """

    plan: Plan
    cached: SampleSource
    uncached: SampleSource
    samples: SampleSet
    uncached_samples: SampleSet
    fields: tuple[str, ...]
    scores: dict[str, str]
    peak_memory: dict[str, int | None]
    videos: bool = False

    @property
    def compared(self) -> bool:
        """Whether any of the samples were also made without a cache."""
        return self.samples is not self.uncached_samples and bool(self.uncached_samples.shards)

    def batches(self) -> Iterator[Features]:
        """Features of the samples, shard by shard."""
        return (Features(**tensors) for tensors in self.samples.tensors(*self.fields))

    def drift(self) -> Scores:
        """The drift of the samples that were also made without a cache; nothing if there are none."""
        if not self.compared or not self.fields:
            return Scores()
        shards = len(self.uncached_samples.shards)

        def features(samples: SampleSet) -> Iterator[Tensor]:
            return (tensors["features"] for tensors in islice(samples.tensors("features"), shards))

        return drift(lambda: features(self.samples), lambda: features(self.uncached_samples))

    def means(self) -> Scores:
        """The scores' means over the samples."""
        found = Scores()
        for name, field in self.scores.items():
            values = torch.cat([shard[field] for shard in self.samples.tensors(field)])
            found.add(mean_score(name, values.double().numpy()))
        return found

    def to_converged(self, solution: Converged) -> np.ndarray:
        """Relative distance of each of the first samples to the converged solution, [n]."""
        target, found = solution.latents, []
        for shard in self.samples.tensors("latents"):
            own, target_of_shard = shard["latents"][: len(target)], target[: len(shard["latents"])]
            found.append(relative_distances(own, target_of_shard))
            target = target[len(own) :]
            if not len(target):
                break
        return np.concatenate(found)

    def pairs(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """(cached, uncached) shards, of those samples that were also made without a cache."""
        if not self.compared:
            return
        compared = ("latents", "images", *([FRAMES] if self.videos else []))
        # the uncached shards, of which there may be fewer, come first and so end the zip
        shards = zip(self.uncached_samples.tensors(*compared), self.samples.tensors(*compared), strict=False)
        for without, own in shards:
            yield own, without


def measure(
    config: Config,
    folder: Path,
    generated: Generated,
    reference: Reference | None,
    solution: Converged | None,
    hashes: dict[str, str | None],
    workers: int,
) -> tuple[Result, dict[str, np.ndarray]]:
    """Evaluate and price what was generated: the run's result, and what each sample contributes to it.

    folder: the run's. solution: the converged one of the first samples; None: not wanted. hashes: of all files that the
    numbers depend on. workers: how many made the samples.
    """
    measurement, way, plan, uncached = config.measurement, config.way, generated.plan, generated.uncached
    compared_in = describe_measurement(measurement, hashes)
    timed = min(way.batch_size, measurement.num_samples)
    of_features = [name for name in config.output.metrics if name not in generated.scores]
    scores = evaluate(of_features, generated.batches, measurement.num_samples, reference)
    scores.add(generated.means())
    no_numbers = [name for name, value in scores.values.items() if not math.isfinite(value)]
    if no_numbers:
        log.warning("%s: not finite for these samples; null in the result", ", ".join(no_numbers))
    cost = price(generated.samples, uncached)
    perceptual = None
    if generated.compared:
        channels, *_, size = generated.samples.first_images(1)[0].shape
        frames = count_of(next(generated.samples.tensors(FRAMES))) if generated.videos else 1
        perceptual = load_lpips(channels, size // frames, uncached.device)
    distances, each = distance(generated.pairs(), perceptual)
    warn_of_distance(plan, distances.get("relative_l2", 0.0))
    drifted = generated.drift()
    converged = None
    if solution is not None:
        each["converged"] = generated.to_converged(solution)
        converged = {
            **described(each["converged"]),
            "samples": len(each["converged"]),
            "accuracy": solution.accuracy,
            "evaluations": solution.evaluations,
        }
    content = {
        "method": label(way),
        "config": flat(config),
        "metrics": scores.values,
        "distance": {**distances, **drifted.values},
        "converged": converged,
        "cost": {
            **cost,
            **generated.peak_memory,
            **latency(generated.cached, uncached, timed, config.execution.latency_repeats),
        },
        **plan.describe(),
        "measurement": compared_in,
        "way": describe_way(way),
        "fingerprint": content_key(compared_in),
        **({PLUGINS: used} if (used := plugins_of(config.output.metrics)) else {}),
        LPIPS: None if perceptual is None else lpips_sha256(),
        "software": software(),
        "device": str(uncached.device),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "tuned_on": tuned_on(way, measurement),
        "samples": {
            "folder": os.path.relpath(generated.samples.folder, folder),
            "compared": generated.uncached_samples.num_samples if generated.compared else 0,
        },
        "git_commit": git_commit(),
    }
    return Result(folder, content), {**scores.influence, **drifted.influence, **each}


def leave(result: Result, influence: dict[str, np.ndarray], samples: SampleSet, way: Way, output: Output) -> None:
    """Write a run's pictures, its images if they are to be kept, what each sample contributes, and last its result.

    Raises GocError naming the file that could not be written; the same command goes on from the samples.
    """
    folder, content = result.folder, dict(result.content)
    first = samples.first_images(GRID_SAMPLES)
    with room_for(folder / "samples.png"), replacing(folder / "samples.png") as file:
        image_grid(first, columns=8).save(file, "PNG")
    with room_for(folder / FIRST_IMAGES), replacing(folder / FIRST_IMAGES) as file:
        np.save(file, first[:SHOWN_IMAGES].numpy())
    if output.save_images == "png":
        write_pngs(samples.images(), folder / "images")
    elif output.save_images == "npz":
        with room_for(folder / "images.npz"):
            write_npz(samples.images(), samples.num_samples, folder / "images.npz")
    if "alignment" in content["inflection"] and content["config"]["steps"] > FIRST_GRADIENT_STEP:
        from goc.report.alignment import plot_alignment  # matplotlib, which runs without an alignment never load

        plot_alignment(content, folder / "alignment.png")
    if SCHEDULES[content["config"]["schedule"]["name"]].found:
        steps, cached = len(content["cached_share"]), content["cached_steps"]
        computed = tuple(step for step in range(steps) if step not in cached)
        seen = calibrated_on(way)  # said where the schedule is named elsewhere
        tuned = {} if seen is None else {"searched": {"seed": seen[0], "samples": seen[1]}}
        with room_for(folder / SCHEDULE_FILE):
            write_schedule(folder / SCHEDULE_FILE, steps, computed, found_by=content["config"]["schedule"], **tuned)
    write_influence(folder, influence, run_key(content))
    with room_for(folder / RESULT_FILE):
        write_json(folder / RESULT_FILE, content)
