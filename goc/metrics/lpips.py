"""LPIPS (Zhang et al., arXiv 1801.03924) by torch-fidelity's implementation on VGG16, where its weights are."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from goc.models.checkpoint import read_tensors
from goc.models.decoder import WEIGHTS
from goc.system.errors import GocError
from goc.system.files import files_sha256

FILES = ("weights-vgg16-lpips.pth", "vgg16-397923af.pth")
SMALLEST = 32  # pixels a side: VGG16 halves an image four times before its last layer
BATCH = 16  # pairs of images at a time

Perceptual = Callable[[Tensor, Tensor], np.ndarray]  # uint8 images [n, 3, H, W] and their targets -> [n]

log = logging.getLogger(__name__)


def find_lpips() -> Path | None:
    """Folder of torch.hub's form with the weights: goc fetch's, or torch.hub's own; None: they are absent."""
    for folder in (WEIGHTS / "lpips", Path(torch.hub.get_dir())):
        if all((folder / "checkpoints" / name).is_file() for name in FILES):
            return folder
    return None


def lpips_sha256() -> str | None:
    """A short name for the content of both weights files; None: they are absent."""
    folder = find_lpips()
    if folder is None:
        return None
    return files_sha256(folder / "checkpoints", (folder / "checkpoints" / name for name in FILES))


def load_lpips(channels: int, size: int, device: torch.device) -> Perceptual | None:
    """The distance, for images of so many channels and pixels a side; None for those that it is not defined for.

    Without its weights it is left out, which one line says. Raises GocError if they are damaged.
    """
    if channels != 3 or size < SMALLEST:
        return None
    folder = find_lpips()
    if folder is None:
        log.warning("lpips is left out: its weights are absent; get them with `goc fetch lpips`")
        return None
    from torch_fidelity import SampleSimilarityLPIPS

    try:
        for name in FILES:
            read_tensors(folder / "checkpoints" / name)  # torch.hub would run what code is in them
        before = torch.hub.get_dir()
        torch.hub.set_dir(folder)
        try:
            network = SampleSimilarityLPIPS("lpips-vgg16").to(device)
        finally:
            torch.hub.set_dir(before)
    except (ValueError, RuntimeError, OSError, LookupError) as error:
        raise GocError(f"{folder}: not LPIPS's weights, or damaged ({str(error).splitlines()[0]})") from error

    @torch.inference_mode()
    def perceptual(images: Tensor, targets: Tensor) -> np.ndarray:
        pairs = zip(images.split(BATCH), targets.split(BATCH), strict=True)
        distances = torch.cat([network(a.to(device), b.to(device)).flatten().cpu() for a, b in pairs])
        if not torch.isfinite(distances).all():
            raise GocError(f"{folder}: LPIPS of these images is not finite: its weights must be others")
        return distances.numpy()

    return perceptual
