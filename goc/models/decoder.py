"""From latents to images: the decoders, and the exact uint8 conversion of the published protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.system.errors import ConfigError, GocError, memory_for
from goc.system.files import file_sha256

Decoder = Callable[[Tensor], Tensor]  # latents [N, C, H, W] -> images [N, 3 or 1, H', W'] in [-1, 1]

UINT8_RULE = "clamp(127.5 x + 128, 0, 255), truncated"
PIPELINES_UINT8_RULE = "255 x, x in [0, 1], rounded"  # diffusers' own, by which its pipelines make pictures
LATENT_SCALE = 0.18215  # of Stable Diffusion's first autoencoder, which DiT was trained on
PUBLISHED_VAES = {name: f"sd-vae-ft-{name}" for name in ("ema", "mse")}
WEIGHTS = Path("weights")  # where scripts/fetch_weights.py puts them
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
        return Path(snapshot_download(repository, allow_patterns=list(VAE_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, ValueError) as error:
        raise GocError(
            f"vae={name}: neither in {local} nor to be had from the hub ({repository}); "
            "get it with `python scripts/fetch_weights.py`"
        ) from error


def vae_sha256(folder: Path) -> str:
    """SHA-256 of an autoencoder's weights."""
    return file_sha256(folder / VAE_FILES[1])


def load_vae(folder: Path, latent_channels: int, device: torch.device) -> Any:
    """An autoencoder from a folder in diffusers' format, in float32, ready to decode.

    Raises GocError if the files are damaged, ConfigError if its latents have another number of channels.
    """
    from goc.system import torchvision  # noqa: F401  (first, as diffusers imports torchvision)

    # isort: split
    from diffusers import AutoencoderKL

    try:
        vae = AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise GocError(f"vae={folder}: not an AutoencoderKL of diffusers, or damaged ({_first_line(error)})") from error
    if vae.config.latent_channels != latent_channels:
        raise ConfigError(
            f"vae={folder}: decodes latents of {vae.config.latent_channels} channels, the model makes {latent_channels}"
        )
    return vae.to(device).eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def upsampling(vae: Any) -> int:
    """Image pixels along the side of a latent pixel."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latent_decoder(vae: Any, batch_size: int) -> Decoder:
    """Latents [N, 4, H, W] -> images [N, 3, 8H, 8W] in [-1, 1], batch_size at a time so that memory stays bounded."""

    def decode(latents: Tensor) -> Tensor:
        with memory_for(f"vae_batch_size={batch_size}"):
            return torch.cat([vae.decode(part / LATENT_SCALE).sample for part in latents.split(batch_size)])

    return decode
