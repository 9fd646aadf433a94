"""The second opinion on a run's samples: another extractor, and real images for it, where a metric asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from goc.config import ModelConfig
from goc.metrics.backbones import timm_version
from goc.metrics.features import Extractor, extractor_weights, load_extractor
from goc.metrics.registry import of_second
from goc.runs.sources import reference_sha256
from goc.system.files import file_sha256, resolve

SETTING = "model.second_extractor"
REFERENCE = "second_reference_sha256"  # of a result's measurement


@dataclass(frozen=True)
class Second:
    """The files of a second opinion."""

    name: str
    weights: Path
    reference: Path

    @classmethod
    def of(cls, model: ModelConfig, metrics: Sequence[str]) -> "Second | None":
        """Those of a valid model; None if none of the metrics is of them. Raises GocError for missing weights."""
        if not of_second(metrics):
            return None
        name, reference = model.second()
        assert name is not None  # or the config is not valid
        assert reference is not None
        named = None if model.second_extractor_weights is None else resolve(model.second_extractor_weights)
        return cls(name, extractor_weights(name, named, SETTING), resolve(reference))

    def said(self) -> dict[str, str | None]:
        """What numbers by it may be compared in, but the real images."""
        version = {f"second_{key}": value for key, value in timm_version(self.name).items()}
        return {"second_extractor": self.name, "second_extractor_sha256": file_sha256(self.weights), **version}

    def reference_sha256(self) -> str | None:
        """Of its real images, as they are."""
        return reference_sha256(self.reference)

    def load(self, device: torch.device) -> Extractor:
        """The extractor; raises GocError for damaged weights."""
        return load_extractor(self.name, self.weights, device, SETTING)
