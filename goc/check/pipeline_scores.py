"""How long the metrics of a row of a paper's table take, from fewer samples than it has."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from goc.check.pipeline_parts import INCEPTION, PaperRow
from goc.metrics.evaluate import evaluate
from goc.metrics.features import Features
from goc.metrics.reference import Reference
from goc.sampling.shards import SampleSet
from goc.system.files import write_json

BY_SAMPLES, BY_PAIRS = ("isc", "fid", "sfid"), ("prc",)  # what the time of metrics grows with
LOGITS = 1008  # of Inception
REPEATS = 2
FIELDS = ("features", "logits", "spatial")


def made_up(count: int, size: int, seed: int) -> Tensor:
    """Features [count, size] whose variances fall."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) * torch.arange(1, size + 1) ** -0.5


def made_up_samples(row: PaperRow, folder: Path, count: int) -> SampleSet:
    """Shards with made-up features."""
    samples = SampleSet(folder, count, row.batch)
    for number, indices in enumerate(samples.shards):
        logits = made_up(len(indices), LOGITS, seed=number)
        features, spatial = (made_up(len(indices), row.feature_size, number) for _ in range(2))
        samples.write(indices, dict(zip(FIELDS, (features, logits, spatial), strict=True)), {})
    return samples


def made_up_reference(row: PaperRow, count: int) -> Reference:
    """Of as many real images as there are samples, at most those of the row."""
    features = made_up(min(count, row.real_images), row.feature_size, seed=-1)
    mu, sigma = np.zeros(row.feature_size), np.diag(np.arange(1.0, row.feature_size + 1) ** -1)
    return Reference(Path(), "", INCEPTION, None, None, mu, sigma, mu, sigma, features)


def distances(samples: int, real: int) -> int:
    """That precision and recall look at: of all samples and real images to those of their kind and of the other."""
    return samples**2 + real**2 + 2 * samples * real


def score_seconds(row: PaperRow, folder: Path) -> list[float]:
    """What reading the shards, the metrics of a paper's row and result.json take for `row.images`, REPEATS times.

    Of precision and recall, the distances take the time; that of the others grows evenly with the samples.
    """
    counts = (row.scored // 2, row.scored)
    made = {count: made_up_samples(row, folder / str(count), count) for count in counts}
    references = {count: made_up_reference(row, count) for count in counts}

    def seconds(metrics: tuple[str, ...], count: int) -> float:
        def batches() -> Iterator[Features]:
            return (Features(**tensors) for tensors in made[count].tensors(*FIELDS))

        start = time.perf_counter()
        scores = evaluate(metrics, batches, count, references[count])
        write_json(folder / "result.json", scores.values)
        return time.perf_counter() - start

    seconds(BY_SAMPLES, counts[0])  # loads and warms up
    wholes = []
    for _ in range(REPEATS):
        few, many = (seconds(BY_SAMPLES, count) for count in counts)
        slope = (many - few) / (counts[1] - counts[0])
        of_a_distance = seconds(BY_PAIRS, row.scored) / distances(row.scored, min(row.scored, row.real_images))
        whole = few + max(slope, 0.0) * (row.images - counts[0])
        wholes.append(whole + of_a_distance * distances(row.images, row.real_images))
    return wholes
