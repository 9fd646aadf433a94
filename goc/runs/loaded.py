"""What a run computes with, loaded from its files, whatever kind of model it is of; and what scores images."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from goc.config import Config, Measurement, Output
from goc.metrics.evaluate import check_metrics, needs_images
from goc.metrics.features import Extractor
from goc.metrics.keep import Score
from goc.metrics.reference import Reference, load_reference
from goc.metrics.registry import METRICS, Metric, of_second
from goc.planning.plan import Plan
from goc.runs.sources import Source, Sources
from goc.sampling.converged import Converged
from goc.sampling.generation import SampleSource
from goc.system.errors import GocError
from goc.system.registry import load_object


@dataclass(frozen=True)
class Loaded(ABC):
    """What a run computes with.

    uncached: what samples without a cache come from. key: what its trajectories depend on apart from the seeds.
    extractor: None: no features are wanted. image_size: of what is generated, a side; None: not known before.
    """

    config: Config
    uncached: SampleSource
    key: dict[str, Any]
    extractor: Extractor | None
    image_size: int | None

    @classmethod
    @abstractmethod
    def files(cls, measurement: Measurement) -> dict[str, Source | None]:
        """The files of a measurement, "model" first; raises GocError for one that is missing, and how to get it."""

    @classmethod
    @abstractmethod
    def load(cls, config: Config, sources: Sources, device: torch.device, extractor: Extractor | None) -> Self:
        """Load these files to a device; raises GocError for a damaged one, or one that does not fit."""

    @abstractmethod
    def plan(self) -> Plan:
        """The plan of the config's method; raises GocError."""

    @abstractmethod
    def cached(self, plan: Plan, method: str, divergence_hint: str) -> SampleSource:
        """What samples with a plan's cache come from."""

    @property
    def videos(self) -> bool:
        """Whether samples have frames."""
        return False

    def samples_key(self) -> dict[str, Any]:
        """What the uncached samples depend on, besides the files of the run."""
        return {**self.key, "seed": self.config.measurement.seed}

    def scores(self, metrics: Sequence[str]) -> Mapping[str, Score]:
        """Numbers that each sample has by itself, by the metric's name, as far as metrics ask for them."""
        scored = {name: METRICS[name] for name in metrics if METRICS[name].score is not None}
        return {name: checked(name, self.score(metric)) for name, metric in scored.items()}

    def score(self, metric: Metric) -> Score:
        """What gives each sample a metric's number."""
        of_images = load_object(metric.score or "")
        return lambda _, images: of_images(images)

    def converged(self, count: int) -> Converged:
        """The converged solution of the first samples; raises GocError where there is none."""
        raise GocError(f"converged_samples={count}: must be 0 with {self.config.measurement.model.name}")


def reference_of(
    path: Path | None, extractor: Extractor | None, image_size: int | None, output: Output, second: bool = False
) -> Reference | None:
    """The real images' statistics; raises GocError if the output's metrics, or second ones, cannot be had from them."""
    reference, metrics = None, of_second(output.metrics, second)
    if path is not None and extractor is not None:
        wanted = needs_images(metrics)
        reference = load_reference(path, extractor, image_size, wanted, Path(output.cache_dir))
    check_metrics(metrics, reference)
    return reference


def checked(name: str, score: Score) -> Score:
    """A metric's score that raises GocError unless it gives one number for each image."""

    def one_each(indices: range, images: Tensor) -> Tensor:
        values = torch.as_tensor(score(indices, images))
        if values.shape != (len(images),):
            shape = list(values.shape)
            raise GocError(f"metrics={name}: gave {shape} for {len(images)} images; must be one number each")
        return values

    return one_each
