"""From what a run has made to what it leaves: its result, its pictures, and its images if they are to be kept."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from goc.caching.calibration import FIRST_GRADIENT_STEP
from goc.config import Config, Output, flat, label
from goc.config.settings import Way
from goc.config.tuning import calibrated_on, tuned_on
from goc.methods import SCHEDULES
from goc.metrics.distance import described
from goc.metrics.reference import Reference
from goc.models.schedules import write_schedule
from goc.planning.plan import Plan
from goc.planning.warnings import warn_of_distance
from goc.report.measurement import describe_measurement, describe_way
from goc.report.result import Result
from goc.report.results import FIRST_IMAGES, RESULT_FILE, SHOWN_IMAGES, run_key, write_influence
from goc.runs.made import Made, described_result
from goc.sampling.converged import Converged
from goc.sampling.generation import SampleSource
from goc.sampling.images import GRID_SAMPLES, image_grid, write_npz, write_pngs
from goc.sampling.pricing import latency, price
from goc.sampling.shards import SampleSet
from goc.system.files import replacing, room_for, write_json

log = logging.getLogger(__name__)

SCHEDULE_FILE = "schedule.json"  # of a run whose schedule was found: what schedule.path takes


@dataclass(frozen=True)
class Generated(Made):
    """What a run has made, with its method.

    peak_memory: of this process while it made the samples; empty values if nothing was left to make.
    """

    plan: Plan = field(kw_only=True)
    cached: SampleSource = field(kw_only=True)
    uncached: SampleSource = field(kw_only=True)
    peak_memory: dict[str, int | None] = field(kw_only=True)


def measure(
    config: Config,
    folder: Path,
    generated: Generated,
    reference: Reference | None,
    second: Reference | None,
    solution: Converged | None,
    hashes: dict[str, str | None],
    workers: int,
) -> tuple[Result, dict[str, np.ndarray]]:
    """Evaluate and price what was generated: the run's result, and what each sample contributes to it.

    folder: the run's. second: the real images for the second extractor. solution: the converged one of the first
    samples; None: not wanted. hashes: of all files that the numbers depend on. workers: how many made the samples.
    """
    measurement, way, plan, uncached = config.measurement, config.way, generated.plan, generated.uncached
    compared_in = describe_measurement(measurement, hashes)
    timed = min(way.batch_size, measurement.num_samples)
    scores = generated.quality(config.output.metrics, reference, second)
    cost = price(generated.samples, uncached)
    distances, lpips = generated.distances(uncached.device)
    warn_of_distance(plan, distances.values.get("relative_l2", 0.0))
    each = dict(distances.influence)
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
        "distance": distances.values,
        "converged": converged,
        "cost": {
            **cost,
            **generated.peak_memory,
            **latency(generated.cached, uncached, timed, config.execution.latency_repeats),
        },
        **plan.describe(),
        "way": describe_way(way),
        **described_result(folder, generated, compared_in, config.output.metrics, lpips, uncached.device),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "tuned_on": tuned_on(way, measurement),
        "chosen": config.chosen,
    }
    return Result(folder, content), {**scores.influence, **each}


def leave_first(folder: Path, samples: SampleSet) -> None:
    """Write the first samples: as a picture, and as arrays for pages."""
    first = samples.first_images(GRID_SAMPLES)
    with room_for(folder / "samples.png"), replacing(folder / "samples.png") as file:
        image_grid(first, columns=8).save(file, "PNG")
    with room_for(folder / FIRST_IMAGES), replacing(folder / FIRST_IMAGES) as file:
        np.save(file, first[:SHOWN_IMAGES].numpy())


def leave(result: Result, influence: dict[str, np.ndarray], samples: SampleSet, way: Way, output: Output) -> None:
    """Write a run's pictures, its images if they are to be kept, what each sample contributes, and last its result.

    Raises GocError naming the file that could not be written; the same command goes on from the samples.
    """
    folder, content = result.folder, dict(result.content)
    leave_first(folder, samples)
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
