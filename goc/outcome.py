"""From what a run has made to what it leaves: its result, its pictures, and its images if they are to be kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goc.caching.calibration import FIRST_GRADIENT_STEP
from goc.config import Config, Output, flat, label
from goc.metrics.distance import distance
from goc.metrics.evaluate import evaluate
from goc.metrics.features import Features
from goc.metrics.reference import Reference
from goc.plan import Plan, warn_of_distance
from goc.report.protocol import fingerprint, protocol
from goc.report.results import FIRST_IMAGES, RESULT_FILE, SHOWN_IMAGES, git_commit, software
from goc.sampling.generation import Generation
from goc.sampling.images import GRID_SAMPLES, image_grid, write_npz, write_pngs
from goc.sampling.pricing import latency, price
from goc.sampling.shards import SampleSet
from goc.system.files import replacing, room_for, write_json


@dataclass(frozen=True)
class Generated:
    """What a run has made: its method, its samples, and the uncached ones it is compared with.

    Without caching the two are the same. fields: names of the features in the shards. peak_memory: of this process
    while it made the samples; empty values if nothing was left to make.
    """

    plan: Plan
    cached: Generation
    uncached: Generation
    samples: SampleSet
    uncached_samples: SampleSet
    fields: tuple[str, ...]
    peak_memory: dict[str, int | None]

    def batches(self) -> Iterator[Features]:
        """Features of the samples, shard by shard."""
        return (Features(**tensors) for tensors in self.samples.tensors(*self.fields))

    def pairs(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """(cached, uncached) shards, of those samples that were also made without a cache."""
        if self.samples is self.uncached_samples:
            return
        compared = ("latents", "images")
        # the uncached shards, of which there may be fewer, come first and so end the zip
        shards = zip(self.uncached_samples.tensors(*compared), self.samples.tensors(*compared), strict=False)
        for without, own in shards:
            yield own, without


def measure(
    config: Config, generated: Generated, reference: Reference, hashes: dict[str, str | None], workers: int
) -> dict[str, Any]:
    """Evaluate and price what was generated: the content of result.json.

    hashes: of all files that the numbers depend on. workers: how many made the samples.
    """
    measurement, way, plan, uncached = config.measurement, config.way, generated.plan, generated.uncached
    described = protocol(measurement, way, hashes)
    timed = min(way.batch_size, measurement.num_samples)
    metrics = evaluate(config.output.metrics, generated.batches, measurement.num_samples, reference)
    cost = price(generated.samples, uncached)
    distances = distance(generated.pairs())
    warn_of_distance(plan, distances.get("relative_l2", 0.0))
    return {
        "method": label(way),
        "config": flat(config),
        "metrics": metrics,
        "distance": distances,
        "cost": {
            **cost,
            **generated.peak_memory,
            **latency(generated.cached, uncached, timed, config.execution.latency_repeats),
        },
        **plan.describe(),
        "protocol": described,
        "fingerprint": fingerprint(described),
        "software": software(),
        "device": str(uncached.device),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "git_commit": git_commit(),
    }


def leave(result: dict[str, Any], samples: SampleSet, output: Output, folder: Path) -> None:
    """Write a run's pictures, its images if they are to be kept, and last its result.

    Raises GocError naming the file that could not be written; the same command goes on from the samples.
    """
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
    if "alignment" in result["inflection"] and result["config"]["steps"] > FIRST_GRADIENT_STEP:
        from goc.report.plots import plot_alignment  # matplotlib, which runs without an alignment never load

        plot_alignment(result, folder / "alignment.png")
    with room_for(folder / RESULT_FILE):
        write_json(folder / RESULT_FILE, result)
