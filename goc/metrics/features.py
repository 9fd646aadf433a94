"""What the metrics see of images: the features that an extractor gives."""

import pickle
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from goc.metrics import backbones
from goc.metrics.embedded import Contrasted, embedded_weights
from goc.metrics.fidelity import create_feature_extractor
from goc.metrics.inception import inception_weights
from goc.metrics.registry import DINOV2, SETTING, TIMM, ExtractorKind, extractor_kind
from goc.models.checkpoint import require_finite
from goc.system.errors import ConfigError, GocError
from goc.system.files import content_key, file_sha256


@dataclass(frozen=True)
class Features:
    """Features of n images, float32 on the CPU.

    features [n, D] are for FID, KID, precision and recall, logits [n, classes] for the Inception score, and spatial
    [n, S] for sFID; None where the extractor has no such output.
    """

    features: Tensor
    logits: Tensor | None = None
    spatial: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


class OfSimclr(nn.Module):
    """An embedded network that was trained without labels: uint8 images [N, 1, size, size] -> (features,)."""

    def __init__(self, network: Contrasted) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images.float() / 127.5 - 1),)


@dataclass(frozen=True)
class Extractor:
    """A loaded feature extractor: its name, a network of uint8 images on a device, the SHA-256 of its weights file.

    kind: its outputs, and the images it takes. setting: which setting of a model names it, for messages.
    """

    name: str
    kind: ExtractorKind
    network: nn.Module
    weights_sha256: str
    device: torch.device
    setting: str = SETTING

    @property
    def reference_setting(self) -> str:
        """The setting that names the real images that it is to see."""
        return self.setting.replace("extractor", "reference")

    @property
    def identity(self) -> dict[str, str]:
        """All that its features of an image depend on."""
        return {"extractor": self.name, "weights": self.weights_sha256, **backbones.timm_version(self.name)}

    @property
    def second_field(self) -> str:
        """The name under which shards keep its features beside the first extractor's."""
        return f"features@{content_key(self.identity)}"

    @property
    def fields(self) -> tuple[str, ...]:
        """Those fields of Features that it fills."""
        return tuple(field.name for field in fields(Features))[: len(self.kind.layers)]

    def check(self, channels: int, size: tuple[int, int]) -> None:
        """Raise ConfigError for images that it is not made for."""
        kind = self.kind
        taken = channels == kind.channels or (kind.grey and channels == 1)
        if not taken or kind.image_size not in (None, *size):
            sizes = f", {kind.image_size}x{kind.image_size} pixels" if kind.image_size else ""
            raise ConfigError(
                f"{self.setting}={self.name}: takes images of {kind.channels} channel{'s' * (kind.channels > 1)}"
                f"{sizes}; these have {channels}, {'x'.join(map(str, size))} pixels"
            )

    def extract(self, images: Tensor) -> Features:
        """Features of one batch of uint8 images [n, C, H, W].

        Raises ConfigError for images that it is not made for: digits takes [n, 1, 8, 8], fashion [n, 1, 32, 32],
        inception [n, 3, H, W]; GocError for features that are not finite.
        """
        outputs = [output.cpu() for output in self.outputs(images)]
        self.require_finite(outputs)
        return Features(*outputs)

    @torch.inference_mode()
    def outputs(self, images: Tensor) -> list[Tensor]:
        """The same on the extractor's device, in the order of `fields`, maybe before a GPU has made them."""
        channels, height, width = images.shape[1:]
        self.check(channels, (height, width))
        with full_precision():
            return [output.float().contiguous() for output in self.network(images.to(self.device))]

    def require_finite(self, outputs: Iterable[Tensor]) -> None:
        """Raise GocError if an output is not finite."""
        if not all(bool(torch.isfinite(output).all()) for output in outputs):
            raise GocError(
                f"{self.setting}={self.name}: gives features that are not finite: its weights must be others"
            )


@contextmanager
def full_precision() -> Iterator[None]:
    """The same float32 sums on every device: no TF32, no algorithm chosen by chance."""
    rounded = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = rounded


def extractor_weights(name: str, weights: Path | None, setting: str = SETTING) -> Path:
    """The weights file of an extractor: the one given, or its own; raises GocError if there is none."""
    extractor_kind(name, setting)  # refuses a name that none has
    if name.startswith(TIMM):
        return backbones.timm_weights(name, weights, setting)
    if name == DINOV2:
        return backbones.dinov2_weights(weights, setting)
    if name == "inception":
        return inception_weights(weights, setting)
    return embedded_weights(name, weights, setting)


def load_network(name: str, path: Path) -> tuple[nn.Module, ExtractorKind]:
    """An extractor's network with the weights of a file, and what it gives."""
    kind = extractor_kind(name)
    if name == DINOV2 or name.startswith(TIMM):
        backbone = backbones.dinov2_backbone(path) if name == DINOV2 else backbones.timm_backbone(name, path)
        return backbone, replace(kind, size=backbone.size)
    if name.endswith("_simclr"):
        return OfSimclr(Contrasted.load(name, path)), kind
    layers = list(kind.layers)
    return create_feature_extractor(
        name, layers, cuda=False, verbose=False, feature_extractor_weights_path=path
    ), kind  # fmt: skip


def load_extractor(name: str, weights: Path | None, device: torch.device, setting: str = SETTING) -> Extractor:
    """An extractor, one of EXTRACTORS or a network of timm, ready to extract.

    weights: its weights file; None is the shipped or published one. setting: of the model, that names it. Raises
    ConfigError for another name, GocError if the weights are missing, damaged or another network's.
    """
    path = extractor_weights(name, weights, setting)
    try:
        network, kind = load_network(name, path)
        require_finite(network.state_dict().items())
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, OSError,
            pickle.UnpicklingError) as error:  # fmt: skip
        # a damaged file can mean anything to torch.load, hence the long list
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise GocError(f"{setting}_weights={path}: not the weights of {name}, or damaged ({reason})") from error
    return Extractor(name, kind, network.to(device), file_sha256(path), device, setting)
