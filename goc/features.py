"""What the metrics see of images: the features that an extractor gives."""

import pickle
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from torch_fidelity.utils import create_feature_extractor

from goc.digits import ASSETS, FEATURES, LOGITS
from goc.errors import ConfigError, GocError
from goc.files import file_sha256
from goc.inception import SPATIAL, SPATIAL_FEATURES, inception_weights


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


def digits_weights(path: Path | None) -> Path:
    """The weights file of the digits extractor: the one given, or the shipped one; raises GocError if it is missing."""
    path = path or ASSETS / "extractor.safetensors"
    if not path.is_file():
        raise GocError(f"model.extractor_weights={path}: no such file (looked for {path.absolute()})")
    return path


@dataclass(frozen=True)
class ExtractorKind:
    """What is known of an extractor without loading it.

    layers are its outputs in the order of Features; size and spatial_size their D and S (0: it has no spatial
    features); image_size the only size of images it takes (None: any).
    """

    layers: tuple[str, ...]
    size: int
    spatial_size: int
    channels: int
    image_size: int | None
    weights: Callable[[Path | None], Path]


EXTRACTORS = {
    "digits": ExtractorKind((FEATURES, LOGITS), int(FEATURES), 0, 1, 8, digits_weights),
    "inception": ExtractorKind(
        ("2048", "logits_unbiased", SPATIAL), 2048, SPATIAL_FEATURES, 3, None, inception_weights
    ),
}


def _kind(name: str) -> ExtractorKind:
    if name not in EXTRACTORS:
        raise ConfigError(f"model.extractor={name}: must be one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name]


def extractor_sha256(name: str, weights: Path | None) -> str:
    """SHA-256 of the weights file that `load_extractor` reads for the same arguments; raises as it does."""
    return file_sha256(_kind(name).weights(weights))


def load_extractor(name: str, weights: Path | None, device: torch.device) -> FeatureExtractorBase:
    """A torch-fidelity extractor, "digits" or "inception", that gives all of Features; ready to extract.

    weights: its weights file; None is the shipped one for digits, and torch-fidelity's download for inception. Raises
    ConfigError for another name, GocError if the weights are missing, damaged or another network's.
    """
    kind = _kind(name)
    path = kind.weights(weights)
    try:
        extractor = create_feature_extractor(
            name, list(kind.layers), cuda=False, verbose=False, feature_extractor_weights_path=path
        )
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, OSError,
            pickle.UnpicklingError) as error:  # fmt: skip
        # a damaged file can mean anything to torch.load, hence the long list
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise GocError(f"model.extractor_weights={path}: not the weights of {name}, or damaged ({reason})") from error
    return extractor.to(device)


@torch.inference_mode()
def extract(images: Tensor, extractor: FeatureExtractorBase, device: torch.device) -> Features:
    """Features of one batch of uint8 images [n, C, H, W].

    Raises ConfigError for images that the extractor is not made for: digits takes [n, 1, 8, 8], inception [n, 3, H, W].
    """
    name, (channels, *size) = extractor.get_name(), images.shape[1:]
    kind = EXTRACTORS[name]
    if channels != kind.channels or kind.image_size not in (None, *size):
        sizes = f", {kind.image_size}x{kind.image_size} pixels" if kind.image_size else ""
        raise ConfigError(
            f"model.extractor={name}: takes images of {kind.channels} channel{'s' * (kind.channels > 1)}{sizes}; "
            f"these have {channels}, {'x'.join(map(str, size))} pixels"
        )
    # the same float32 sums on every device: no TF32, no algorithm chosen by chance
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        outputs = [output.float().cpu().contiguous() for output in extractor(images.to(device))]
    return Features(*outputs)
