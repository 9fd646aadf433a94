"""Networks of timm as feature extractors, DINOv2 among them: uint8 images [N, C, H, W] -> features [N, D].

FD-DINOv2 (Stein et al., arXiv 2306.04675) is of the class token of DINOv2's ViT-L/14. As in the authors' dgm-eval,
images are resized to 224 x 224 by Pillow's bicubic filter, which rounds to 8 bits, and normalised with ImageNet's mean
and deviation. EDM2's calculate_metrics.py has the same network, by default behind torch's bicubic filter, which does
not round; it says that the results are almost the same.
"""

import logging
import math
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from goc.metrics.registry import DINOV2, TIMM, extractor_kind
from goc.models.checkpoint import read_tensors
from goc.system.errors import ConfigError, GocError
from goc.system.files import require_file
from goc.system.published import DINOV2_FILE

log = logging.getLogger(__name__)

BATCH = 32  # images at a time
PATCH, HEAD = 14, 64  # pixels a side of a patch of DINOv2, and the size of its attention heads
IMAGE_SIZE = 224
PREPARED: dict[str, Any] = {
    "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "squash",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
OFFSET = 0.1  # of a grid of positions that is interpolated, in patches: the authors' guard against rounding


class Backbone(nn.Module):
    """A network of timm behind its preparation of a Pillow image: uint8 images [N, 1 or 3, H, W] -> (features,)."""

    def __init__(self, network: Any, data_config: Mapping[str, Any]) -> None:
        super().__init__()
        from timm.data import create_transform

        self.network = network.eval().requires_grad_(False)
        self.prepare: Callable[[Image.Image], Tensor] = create_transform(**data_config, is_training=False)

    @property
    def size(self) -> int:
        """How many features there are."""
        return int(getattr(self.network, "head_hidden_size", self.network.num_features))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        rows = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
        device = next(self.network.parameters()).device
        features = []
        for start in range(0, len(rows), BATCH):
            pictures = (Image.fromarray(np.ascontiguousarray(row)) for row in rows[start : start + BATCH])
            features.append(self.network(torch.stack(list(map(self.prepare, pictures))).to(device)))
        return (torch.cat(features),)


def timm_version(name: str) -> dict[str, str]:
    """What the features of a network of timm depend on besides its weights: which one it is, by which version."""
    return {"timm": f"{name.removeprefix(TIMM)} {version('timm')}"} if name.startswith(TIMM) else {}


def dinov2_weights(path: Path | None, setting: str) -> Path:
    """DINOv2's weights file: the one given, or where `goc fetch` or the authors' torch.hub leave it."""
    if path is None:
        places = (Path("weights"), Path(torch.hub.get_dir()) / "checkpoints")
        path = next((folder / DINOV2_FILE for folder in places if (folder / DINOV2_FILE).is_file()), None)
    advice = f"; get it with `goc fetch {DINOV2}`, or name a file by {setting}_weights"
    if path is None:
        where = f"its weights {DINOV2_FILE} are neither in weights/ nor in torch.hub's cache"
        raise GocError(f"{setting}={DINOV2}: {where}{advice}")
    return require_file(path, f"{setting}_weights", advice)


def timm_weights(name: str, path: Path | None, setting: str) -> Path:
    """The weights file of a network of timm, which must be given; raises ConfigError where timm has no such network."""
    import timm

    architecture = name.removeprefix(TIMM)
    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture.partition('.')[0]}*")[:3] if architecture else []
        hint = f" as {', '.join(near)}" if near else ""
        raise ConfigError(f"{setting}={name}: must be {TIMM} and the name of a network of timm{hint}")
    if path is None:
        raise GocError(f"{setting}_weights=null: must be a file with the weights of {name}; nothing is downloaded")
    return require_file(path, f"{setting}_weights")


def timm_backbone(name: str, path: Path) -> Backbone:
    """A network of timm with the weights of a file, without its classifier, behind its own preparation of images.

    The file is one of timm's, classifier and all, or of the network's authors where timm converts these; no code of it
    is run. Raises RuntimeError, as torch does, if a weight is missing or is too much.
    """
    import timm
    from timm.data import resolve_model_data_config

    read_tensors(path)  # refuses what is not finite, or no state dict
    source = {"file": str(path)}
    network: Any = timm.create_model(name.removeprefix(TIMM), pretrained=True, pretrained_cfg_overlay=source)
    network.reset_classifier(0)  # now: timm does not mind what is missing where it makes a network without it
    return Backbone(network, resolve_model_data_config(network))


def dinov2_network(image_size: int, width: int, depth: int) -> Any:
    """DINOv2's network, for images of one size."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=image_size, patch_size=PATCH, embed_dim=width, depth=depth,
                             num_heads=width // HEAD, init_values=1.0, num_classes=0)  # fmt: skip


def dinov2_backbone(path: Path) -> Backbone:
    """DINOv2 with the weights of a file, the authors' or timm's; of any width and depth, which its shapes say."""
    state = read_tensors(path)
    state.pop("mask_token", None)  # the authors' is for training alone; other names are the same
    if "register_tokens" in state or "reg_token" in state:
        raise ValueError("it has register tokens, which FD-DINOv2's network has not")
    positions = state["pos_embed"]
    state["pos_embed"] = published_positions(positions, IMAGE_SIZE // PATCH)
    width, published = positions.shape[-1], extractor_kind(DINOV2).size
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    network = dinov2_network(IMAGE_SIZE, width, depth)
    network.load_state_dict(state)
    if width != published:
        log.warning("%s: a DINOv2 of width %d; FD-DINOv2 is of ViT-L/14, %d wide: these numbers are not to be "
                    "compared with published ones", path, width, published)  # fmt: skip
    return Backbone(network, PREPARED)


def published_positions(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings [1, 1 + G * G, D] for another square grid, by the authors' rule: [1, 1 + grid * grid, D].

    Bicubic without antialiasing, at the scale (grid + 0.1) / G. timm's own rule has antialiasing, and no 0.1.
    """
    side = math.isqrt(positions.shape[1] - 1)
    if side == grid:
        return positions
    patches = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = (grid + OFFSET) / side
    resized = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
