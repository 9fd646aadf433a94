"""Samples on disk, and what is measured of them alone: quality, and the distance to others of the same seeds."""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goc.metrics.distance import distance, relative_distances
from goc.metrics.evaluate import Scores, drift, evaluate, mean_score
from goc.metrics.features import Features
from goc.metrics.lpips import load_lpips, lpips_sha256
from goc.metrics.reference import Reference
from goc.metrics.registry import PLUGINS, of_second, plugins_of
from goc.report.results import git_commit, software
from goc.sampling.converged import Converged
from goc.sampling.frames import FRAMES, count_of
from goc.sampling.shards import SampleSet
from goc.system.files import content_key

LPIPS = "lpips_sha256"  # of a result: of the weights that its LPIPS was measured with

log = logging.getLogger(__name__)


def described_result(
    folder: Path,
    made: "Made",
    compared_in: dict[str, Any],
    metrics: Sequence[str],
    lpips: str | None,
    device: torch.device,
) -> dict[str, Any]:
    """What a result says of its samples whatever made them: what they are compared in, by what and where measured."""
    plugins = plugins_of(list(metrics))
    return {
        "measurement": compared_in,
        "fingerprint": content_key(compared_in),
        **({PLUGINS: plugins} if plugins else {}),
        LPIPS: lpips,
        "software": software(),
        "device": str(device),
        "samples": {
            "folder": os.path.relpath(made.samples.folder, folder),
            "compared": made.uncached_samples.num_samples if made.compared else 0,
        },
        "git_commit": git_commit(),
    }  # fmt: skip


@dataclass(frozen=True)
class Made:
    """Samples, and the uncached ones that they are compared with; without caching the two are the same.

    fields: names of the features in the shards; scores: of metrics that each sample has a number of by itself, and
    their names there; second_field: of the second extractor's features.
    """

    samples: SampleSet
    uncached_samples: SampleSet
    fields: tuple[str, ...]
    scores: Mapping[str, str] = field(default_factory=dict)
    videos: bool = False
    second_field: str | None = None

    @property
    def compared(self) -> bool:
        """Whether any of the samples were also made without a cache."""
        return self.samples is not self.uncached_samples and bool(self.uncached_samples.shards)

    def batches(self) -> Iterator[Features]:
        """Features of the samples, shard by shard."""
        return (Features(**tensors) for tensors in self.samples.tensors(*self.fields))

    def second_batches(self) -> Iterator[Features]:
        """Those of the second extractor."""
        name = self.second_field
        assert name is not None
        return (Features(tensors[name]) for tensors in self.samples.tensors(name))

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
        scores = Scores()
        for name, kept in self.scores.items():
            values = torch.cat([shard[kept] for shard in self.samples.tensors(kept)])
            scores.add(mean_score(name, values.double().numpy()))
        return scores

    def to_converged(self, solution: Converged) -> np.ndarray:
        """Relative distance of each of the first samples to the converged solution, [n]."""
        target, distances = solution.latents, []
        for shard in self.samples.tensors("latents"):
            latents = shard["latents"][: len(target)]
            distances.append(relative_distances(latents, target[: len(latents)]))
            target = target[len(latents) :]
            if not len(target):
                break
        return np.concatenate(distances)

    def pairs(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """(cached, uncached) shards, of those samples that were also made without a cache."""
        if not self.compared:
            return
        compared = ("latents", "images", *([FRAMES] if self.videos else []))
        # the uncached shards, of which there may be fewer, come first and so end the zip
        shards = zip(self.uncached_samples.tensors(*compared), self.samples.tensors(*compared), strict=False)
        yield from ((cached, uncached) for uncached, cached in shards)

    def quality(self, metrics: Sequence[str], reference: Reference | None, second: Reference | None = None) -> Scores:
        """The named metrics; what is not finite is said, and null in a result. second: for the second extractor."""
        of_features, count = [name for name in metrics if name not in self.scores], self.samples.num_samples
        scores = evaluate(of_second(of_features, False), self.batches, count, reference)
        if asked := of_second(of_features):
            scores.add(evaluate(asked, self.second_batches, count, second))
        scores.add(self.means())
        no_numbers = [name for name, value in scores.values.items() if not math.isfinite(value)]
        if no_numbers:
            log.warning("%s: not finite for these samples; null in the result", ", ".join(no_numbers))
        return scores

    def distances(self, device: torch.device) -> tuple[Scores, str | None]:
        """The distances to the uncached samples, LPIPS among them where it is defined, and the SHA-256 of its weights.

        What is divided by nothing or not known is left out.
        """
        perceptual = None
        if self.compared:
            channels, *_, size = self.samples.first_images(1)[0].shape
            frames = count_of(next(self.samples.tensors(FRAMES))) if self.videos else 1
            perceptual = load_lpips(channels, size // frames, device)
        values, each = distance(self.pairs(), perceptual)
        drifted = self.drift()
        return Scores({**values, **drifted.values}, {**drifted.influence, **each}), perceptual and lpips_sha256()
