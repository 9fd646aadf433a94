"""From latents to images: the decoders, and the exact uint8 conversion of the published protocol."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.models.parts import load_part, part_files
from goc.system.errors import ConfigError, GocError, memory_for
from goc.system.files import files_sha256
from goc.system.published import require_published

log = logging.getLogger(__name__)

Decoder = Callable[[Tensor], Tensor]  # latents [N, C, H, W] -> images [N, 3 or 1, H', W'] in [-1, 1]

UINT8_RULE = "clamp(127.5 x + 128, 0, 255), truncated"
PIPELINES_UINT8_RULE = "255 x, x in [0, 1], rounded"  # diffusers' own, by which its pipelines make pictures
LATENT_SCALE = 0.18215  # of Stable Diffusion's first autoencoder, which DiT was trained on
DOWNSAMPLING = 8  # its image pixels for one latent pixel
IMAGE_CHANNELS = 3
PUBLISHED_VAES = {name: f"sd-vae-ft-{name}" for name in ("ema", "mse")}
WEIGHTS = Path("weights")  # where goc fetch puts them
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, same shape, by UINT8_RULE (DiT's evaluation protocol)."""
    return torch.clamp(127.5 * images + 128.0, 0, 255).to(torch.uint8)


def decode_pixels(latents: Tensor) -> Tensor:
    """A pixel-space model's latents [N, C, H, W] are its images."""
    return latents


def find_vae(name: str) -> Path:
    """Folder of an autoencoder in diffusers' format: "ema" or "mse" (published), a folder, or a repository of the hub.

    A published one is looked for in weights/ first, then in the hub. Raises GocError saying where it was looked for.
    """
    local = WEIGHTS / PUBLISHED_VAES[name] if name in PUBLISHED_VAES else Path(name)
    if all((local / file).is_file() for file in VAE_FILES):
        return local
    if local.is_dir() or (name.count("/") != 1 and name not in PUBLISHED_VAES):
        raise GocError(f"vae={name}: {local} must be a folder with {' and '.join(VAE_FILES)}, or be one of ema, mse")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository = f"stabilityai/{PUBLISHED_VAES[name]}" if name in PUBLISHED_VAES else name
    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(VAE_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, ValueError) as error:
        raise GocError(
            f"vae={name}: neither in {local} nor to be had from the hub ({repository}); get it with `goc fetch`"
        ) from error
    if name in PUBLISHED_VAES:
        for file in VAE_FILES:
            require_published(folder / file, f"{PUBLISHED_VAES[name]}/{file}")
    return folder


def vae_sha256(folder: Path) -> str:
    """SHA-256 over an autoencoder's files, their names among them: its weights, and the configuration they run by."""
    return files_sha256(folder, part_files(folder))


def load_vae(folder: Path, latent_channels: int, device: torch.device) -> Any:
    """An autoencoder from a folder in diffusers' format, in float32, ready to decode.

    Raises GocError if the files are damaged, or weights missing, too many or not finite; ConfigError if its latents
    have another number of channels, or its images are not of three.
    """

    from diffusers import AutoencoderKL

    try:
        vae = load_part(AutoencoderKL, folder, low_cpu_mem_usage=False)
    except ValueError as error:
        raise GocError(f"vae={folder}: {error}") from error
    if vae.config.latent_channels != latent_channels:
        raise ConfigError(
            f"vae={folder}: decodes latents of {vae.config.latent_channels} channels, the model makes {latent_channels}"
        )
    if vae.config.out_channels != IMAGE_CHANNELS:
        raise ConfigError(f"vae={folder}: makes images of {vae.config.out_channels} channels, not {IMAGE_CHANNELS}")
    if vae.config.scaling_factor != LATENT_SCALE or vae.config.shift_factor:
        log.warning(
            "vae=%s: its scaling_factor is %g and its shift_factor %g, while latents are those of DiT's (%g and 0)",
            folder,
            vae.config.scaling_factor,
            vae.config.shift_factor or 0.0,
            LATENT_SCALE,
        )
    return vae.to(device).eval().requires_grad_(False)


def upsampling(vae: Any) -> int:
    """Image pixels along the side of a latent pixel."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latent_decoder(vae: Any, batch_size: int) -> Decoder:
    """Latents [N, 4, H, W] -> images [N, 3, 8H, 8W] in [-1, 1], batch_size at a time so that memory stays bounded."""

    def decode(latents: Tensor) -> Tensor:
        with memory_for(f"vae_batch_size={batch_size}"):
            return torch.cat([vae.decode(part / LATENT_SCALE).sample for part in latents.split(batch_size)])

    return decode
