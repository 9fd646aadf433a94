"""How far samples are from others of the same seeds."""

from torch import Tensor


def relative_distances(latents: Tensor, target: Tensor) -> Tensor:
    """|z - z0| / |z0| of each sample of latents [n, C, H, W], in their format: [n]."""
    return (latents - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
