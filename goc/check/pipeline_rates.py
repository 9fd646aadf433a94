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


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> Seconds:
    """What some work takes, from an idle device to an idle device, after once that is not timed."""
    times = []
    for _ in range(1 + repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return Seconds.of(times[1:])


class TimedSamples(SampleSet):
    """Samples on disk that know when each shard was there."""

    def __init__(self, folder: Path, row: PaperRow) -> None:
        super().__init__(folder, (2 + row.batches) * row.batch, row.batch)
        self.written: list[float] = []

    def write(self, indices: range, tensors: dict[str, Tensor], cost: dict[str, Any]) -> None:
        super().write(indices, tensors, cost)
        self.written.append(time.perf_counter())


def alone(parts: Parts, row: PaperRow, folder: Path) -> dict[str, Seconds]:
    """Seconds a batch of each part by itself; the decoder also in other formats, which a run does not use."""
    device, indices = parts.generation.device, range(row.batch)
    sampled, made_with = parts.generation.sample(indices)
    made = parts.generation.decoded(sampled)
    later = range(row.images, row.images + row.batch)  # of these neither latents nor images are kept
    kept = parts.keep(later, made)
    samples, cost = SampleSet(folder, row.batch, row.batch), parts.generation.cost(made_with)
    seconds = {SAMPLER: timed(lambda: parts.generation.sample(indices), device, row.batches)}
    for name, decode in decoders(parts.vae, row, device).items():
        seconds[f"{DECODE}{name}"] = timed(partial(decode, sampled["latents"]), device, row.batches)
    seconds[FEATURES] = timed(lambda: parts.keep(later, made), device, row.batches)
    seconds[WRITING] = timed(
        lambda: samples.write(later, {name: tensor.cpu() for name, tensor in kept.items()}, cost), device, row.batches
    )
    return seconds


def together(parts: Parts, row: PaperRow, folder: Path, overlapped: bool) -> Seconds:
    """Seconds between a batch's shard on disk and the next one's, as a run makes them."""
    samples = TimedSamples(folder, row)
    generate(parts.generation, samples, parts.keep, Workers(), overlapped)
    return Seconds.of(np.diff(samples.written[1:]).tolist())  # until the first one, what is made once is made


def measure(row: PaperRow) -> pd.DataFrame:
    """One row for each part and two of the whole, in COLUMNS.

    seconds_a_batch: means over `row.batches`, error_s their standard error; images_per_s and of_sampler, the share of
    the sampler's rate, follow from them. hours: for `row.images`, of the whole with the metrics, and hours_error their
    standard error. Raises ConfigError for a model or size that there is not.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        parts = load_parts(row, folder)
        seconds = alone(parts, row, folder / "alone")
        seconds |= {name: together(parts, row, folder / name, name == OVERLAPPED) for name in WHOLE}
        metrics = Seconds.of(score_seconds(row, folder / METRICS))
    return table(row, seconds, metrics)


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
