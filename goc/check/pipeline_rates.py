"""Images a second from noise to result.json with random weights: each part alone, and all of them together.

`measure` gives the table; `pipeline` is scripts/benchmark.py pipeline (docs/performance.md).
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from goc.check.pipeline_parts import ON_CPU, TINY, PaperRow, Parts, decoders, load_parts
from goc.check.pipeline_scores import score_seconds
from goc.sampling.generate import generate
from goc.sampling.shards import SampleSet
from goc.sampling.workers import Workers
from goc.system.arguments import check_numbers
from goc.system.device import synchronize
from goc.system.precision import PRECISIONS

COLUMNS = ["part", "images_per_s", "seconds_a_batch", "error_s", "of_sampler", "hours", "hours_error"]
SAMPLER, DECODE, FEATURES, WRITING, METRICS = "sampler", "VAE decode", "features", "writing", "metrics"
WHOLE = IN_TURN, OVERLAPPED = "one after the other", "overlapped"
TURNS = 2  # of these two


@dataclass(frozen=True)
class Seconds:
    """What something took: the mean, and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, times: Sequence[float]) -> "Seconds":
        """Of repeated measurements; of a single one the error is not known."""
        error = float(np.std(times, ddof=1)) / math.sqrt(len(times)) if len(times) > 1 else math.nan
        return cls(float(np.mean(times)), error)

    def times(self, factor: float) -> "Seconds":
        return Seconds(factor * self.mean, factor * self.error)

    def plus(self, other: "Seconds") -> "Seconds":
        return Seconds(self.mean + other.mean, math.hypot(self.error, other.error))


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """What some work takes, from an idle device to an idle device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def alone(parts: Parts, row: PaperRow, folder: Path) -> dict[str, list[float]]:
    """Seconds a batch of each part by itself; the decoder also in other formats, which a run does not use.

    The parts take turns, so that a machine that is slower for a while is slower for all; the first turn does not count.
    """
    device, indices = parts.generation.device, range(row.batch)
    sampled, made_with = parts.generation.sample(indices)
    made = parts.generation.decoded(sampled)
    later = range(row.images, row.images + row.batch)  # of these neither latents nor images are kept
    kept = parts.keep(later, made)
    samples, cost = SampleSet(folder, row.batch, row.batch), parts.generation.cost(made_with)

    def write() -> None:
        samples.write(later, {name: tensor.cpu() for name, tensor in kept.items()}, cost)

    works: dict[str, Callable[[], object]] = {SAMPLER: partial(parts.generation.sample, indices)}
    works |= {f"{DECODE}{name}": partial(f, sampled["latents"]) for name, f in decoders(parts.vae, row, device).items()}
    works |= {FEATURES: partial(parts.keep, later, made), WRITING: write}
    turns = [{name: seconds_of(work, device) for name, work in works.items()} for _ in range(1 + row.batches)]
    return {name: [turn[name] for turn in turns[1:]] for name in works}


class TimedSamples(SampleSet):
    """Samples on disk that know when each shard was there."""

    def __init__(self, folder: Path, shards: int, batch: int) -> None:
        super().__init__(folder, shards * batch, batch)
        self.written: list[float] = []

    def write(self, indices: range, tensors: dict[str, Tensor], cost: dict[str, Any]) -> None:
        super().write(indices, tensors, cost)
        self.written.append(time.perf_counter())


def together(parts: Parts, row: PaperRow, folder: Path) -> dict[str, list[float]]:
    """Seconds between a batch's shard on disk and the next one's, as a run makes them; both ways in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in WHOLE}
    for turn in range(TURNS):
        for name, between in seconds.items():
            samples = TimedSamples(folder / f"{name} {turn}", 2 + -(-row.batches // TURNS), row.batch)
            generate(parts.generation, samples, parts.keep, Workers(), overlapped=name == OVERLAPPED)
            between += np.diff(samples.written[1:]).tolist()  # until the first one, what is made once is made
    return seconds


def measure(row: PaperRow) -> pd.DataFrame:
    """One row for each part and two of the whole, in COLUMNS.

    seconds_a_batch: means over `row.batches`, error_s their standard error; images_per_s and of_sampler, the share of
    the sampler's rate, follow from them. hours: for `row.images`, of the whole with the metrics, and hours_error their
    standard error. Raises ConfigError for a model or size that there is not.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        parts = load_parts(row, folder)
        times = alone(parts, row, folder / "alone") | together(parts, row, folder / "together")
        metrics = Seconds.of(score_seconds(row, folder / METRICS))
    return table(row, {name: Seconds.of(of_part) for name, of_part in times.items()}, metrics)


def table(row: PaperRow, seconds: Mapping[str, Seconds], metrics: Seconds) -> pd.DataFrame:
    """The table of seconds a batch, by part, and of those that all metrics take."""
    rows: list[dict[str, Any]] = []
    for name, batch in seconds.items():
        whole = batch.times(row.images / row.batch)
        if name in WHOLE:
            whole = whole.plus(metrics)
        rows.append(
            {
                "part": name,
                "images_per_s": row.batch / batch.mean,
                "seconds_a_batch": batch.mean,
                "error_s": batch.error,
                "of_sampler": seconds[SAMPLER].mean / batch.mean,
                "hours": whole.mean / 3600,
                "hours_error": whole.error / 3600,
            }
        )
    of_metrics = {"part": METRICS, "hours": metrics.mean / 3600, "hours_error": metrics.error / 3600}
    rows.insert(len(rows) - len(WHOLE), of_metrics)
    return pd.DataFrame(rows, columns=COLUMNS)


def pipeline(settings: list[str]) -> pd.DataFrame:
    """Each part of a row of a paper's table alone, the whole in turn and overlapped, and hours for all its images."""
    row = PaperRow() if torch.cuda.is_available() else ON_CPU
    if "--tiny" in settings:
        row = TINY
    parser = argparse.ArgumentParser(
        prog="benchmark.py pipeline", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Defaults are those of this machine: a GPU's, or a CPU's.",
    )  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="small models, in seconds: does it run")
    parser.add_argument("--model", default=row.model, help="a published architecture")
    parser.add_argument("--image-size", type=int, default=row.image_size, help="pixels a side")
    parser.add_argument("--cfg-scale", type=float, default=row.cfg_scale, help="1 is without guidance")
    parser.add_argument("--steps", type=int, default=row.steps, help="of DDIM")
    parser.add_argument("--precision", choices=PRECISIONS, default=row.precision, help="as run.py's")
    parser.add_argument("--compiled", action="store_true", help="as run.py's compile=true")
    parser.add_argument("--batch", type=int, default=row.batch, help="images made together")
    parser.add_argument("--vae-batch", type=int, default=row.vae_batch, help="latents decoded together")
    parser.add_argument("--batches", type=int, default=row.batches, help="that are timed")
    parser.add_argument("--images", type=int, default=row.images, help="of the row whose hours are estimated")
    parser.add_argument("--scored", type=int, default=row.scored, help="samples that the metrics are timed on")
    options = parser.parse_args(settings)
    check_numbers(options, {"steps": 2, "batch": 1, "vae_batch": 1, "batches": 2, "images": 1, "scored": 10})
    return measure(replace(row, **vars(options)))
