"""From latents to images: the decoder, and the exact uint8 conversion of the published protocol."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, same shape: clamp(127.5 x + 128, 0, 255), truncated (DiT's evaluation protocol)."""
    return torch.clamp(127.5 * images + 128.0, 0, 255).to(torch.uint8)


def decode_pixels(latents: Tensor) -> Tensor:
    """A pixel-space model's latents [N, C, H, W] are its images."""
    return latents
