"""What a row of a paper's table is made with, with random weights: denoiser, decoder and feature extractor."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.check.random_model import random_model
from goc.cli.random_weights import randomize, untrained_vae, write_dinov2, write_inception
from goc.metrics.features import load_extractor
from goc.metrics.keep import KeepFeatures
from goc.metrics.registry import DINOV2, EXTRACTORS
from goc.models.decoder import Decoder, latent_decoder
from goc.sampling.generation import Generation
from goc.sampling.options import DDIMConfig

INCEPTION = "inception"


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper's table, and how it is measured.

    images: of the row; batch: made together; batches: measured, of each part and of the whole. vae_batch: latents
    decoded together. tiny: with the smallest autoencoder and DINOv2 in place of the published ones. scored: samples
    that the metrics are measured on, of features of `feature_size` numbers, against as many real images; from them
    follows the time for `images` and `real_images`.
    """

    model: str = "DiT-XL/2"
    image_size: int = 256
    steps: int = 50
    cfg_scale: float = 1.5
    batch: int = 32
    precision: str = "bf16"
    compiled: bool = False
    batches: int = 4
    vae_batch: int = 8
    tiny: bool = False
    images: int = 50_000
    real_images: int = 10_000
    scored: int = 2000
    feature_size: int = EXTRACTORS[INCEPTION].size


ON_CPU = PaperRow(model="DiT-S/2", steps=20, batch=2, precision="fp32", scored=1000)
TINY = PaperRow(
    model="DiT-S/8", image_size=64, steps=2, batch=2, precision="fp32", batches=2, tiny=True, images=100,
    real_images=20, scored=20, feature_size=16,
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What makes samples, its decoder by itself, and what shards keep of them."""

    generation: Generation
    vae: Any
    keep: KeepFeatures


def load_parts(row: PaperRow, folder: Path) -> Parts:
    """All parts on their device; writes the extractor's weights into the folder. Raises ConfigError as `random_model`.

    The decoder and the extractor are in float32, as in a run.
    """
    model, device, dtype = random_model(row.model, row.image_size, row.precision, row.compiled)
    with device:
        vae = untrained_vae(row.image_size, row.tiny).eval().requires_grad_(False)
    randomize(vae, seed=0)
    weights = folder / "extractor.pth"
    if row.tiny:
        write_dinov2(weights, seed=0, size="tiny")
    else:
        write_inception(weights, seed=0)
    extractor = load_extractor(DINOV2 if row.tiny else INCEPTION, weights, device)
    generation = Generation(
        model=model,
        solver=DDIMConfig().solver(row.steps),
        cfg_scale=row.cfg_scale,
        cfg_channels=3,
        seed=0,
        decode=latent_decoder(vae, row.vae_batch),
        device=device,
        autocast=dtype,
    )
    return Parts(generation, vae, KeepFeatures(extractor, compared=0, images=False))


def decoders(vae: Any, row: PaperRow, device: torch.device) -> dict[str, Decoder]:
    """A run's decoder "", and the same in other formats."""
    by_channel = copy.deepcopy(vae).to(memory_format=torch.channels_last)
    plain, last = latent_decoder(vae, row.vae_batch), latent_decoder(by_channel, row.vae_batch)

    def as_run(latents: Tensor) -> Tensor:
        with torch.inference_mode():
            return plain(latents)

    def channels_last(latents: Tensor) -> Tensor:
        with torch.inference_mode():
            return last(latents.to(memory_format=torch.channels_last))

    def bf16(latents: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return channels_last(latents)

    return {"": as_run, ", channels last": channels_last, ", channels last, bf16": bf16}
