"""What the metrics see of images: the features that an extractor gives."""

import pickle
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from goc.metrics.embedded import WEIGHTS as EMBEDDED
from goc.metrics.fidelity import FeatureExtractorBase, create_feature_extractor
from goc.metrics.inception import inception_weights
from goc.metrics.registry import EXTRACTORS, ExtractorKind
from goc.models.checkpoint import require_finite
from goc.system.errors import ConfigError, GocError
from goc.system.files import file_sha256

# name of an extractor -> where its weights are, of the file given by the user or None
WEIGHTS: dict[str, Callable[[Path | None], Path]] = {**EMBEDDED, "inception": inception_weights}


@dataclass(frozen=True)
class Features:
    """Features of n images, float32 on the CPU.

    features [n, D] are for FID, KID, precision and recall, logits [n, classes] for the Inception score, and spatial
    [n, S] for sFID; None if the extractor has no spatial features.
    """

    features: Tensor
    logits: Tensor
    spatial: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Extractor:
    """A loaded feature extractor: torch-fidelity's network on a device, and the SHA-256 of its weights file."""

    network: FeatureExtractorBase
    weights_sha256: str
    device: torch.device

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self.network.get_name()

    @property
    def kind(self) -> ExtractorKind:
        """Its outputs, and the images it takes."""
        return EXTRACTORS[self.name]

    @property
    def fields(self) -> tuple[str, ...]:
        """Those fields of Features that it fills."""
        return tuple(field.name for field in fields(Features))[: len(self.kind.layers)]

    def check(self, channels: int, size: tuple[int, int]) -> None:
        """Raise ConfigError for images that it is not made for."""
        kind = self.kind
        if channels != kind.channels or kind.image_size not in (None, *size):
            sizes = f", {kind.image_size}x{kind.image_size} pixels" if kind.image_size else ""
            raise ConfigError(
                f"model.extractor={self.name}: takes images of {kind.channels} channel{'s' * (kind.channels > 1)}"
                f"{sizes}; these have {channels}, {'x'.join(map(str, size))} pixels"
            )

    @torch.inference_mode()
    def extract(self, images: Tensor) -> Features:
        """Features of one batch of uint8 images [n, C, H, W].

        Raises ConfigError for images that it is not made for: digits takes [n, 1, 8, 8], fashion [n, 1, 32, 32],
        inception [n, 3, H, W]; GocError for features that are not finite.
        """
        channels, height, width = images.shape[1:]
        self.check(channels, (height, width))
        # the same float32 sums on every device: no TF32, no algorithm chosen by chance
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            outputs = [output.float().cpu().contiguous() for output in self.network(images.to(self.device))]
        if not all(bool(torch.isfinite(output).all()) for output in outputs):
            raise GocError(
                f"model.extractor={self.name}: gives features that are not finite: its weights must be others"
            )
        return Features(*outputs)


def extractor_weights(name: str, weights: Path | None) -> Path:
    """The weights file of an extractor: the one given, or its own; raises GocError if there is none."""
    if name not in EXTRACTORS:
        raise ConfigError(f"model.extractor={name}: must be one of {', '.join(EXTRACTORS)}")
    return WEIGHTS[name](weights)


def load_extractor(name: str, weights: Path | None, device: torch.device) -> Extractor:
    """A torch-fidelity extractor, "digits", "fashion" or "inception", that gives all of Features; ready to extract.

    weights: its weights file; None is the shipped one, and torch-fidelity's download for inception. Raises
    ConfigError for another name, GocError if the weights are missing, damaged or another network's.
    """
    path = extractor_weights(name, weights)
    try:
        network = create_feature_extractor(
            name, list(EXTRACTORS[name].layers), cuda=False, verbose=False, feature_extractor_weights_path=path
        )
        require_finite(network.state_dict().items())
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, OSError,
            pickle.UnpicklingError) as error:  # fmt: skip
        # a damaged file can mean anything to torch.load, hence the long list
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise GocError(f"model.extractor_weights={path}: not the weights of {name}, or damaged ({reason})") from error
    return Extractor(network.to(device), file_sha256(path), device)
