"""How far cached samples are from the uncached ones of the same seeds."""

import math
from collections.abc import Iterable

from torch import Tensor


def distance(pairs: Iterable[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> dict[str, float]:
    """How far cached samples are from the uncached ones of the same seeds, over all batches together.

    pairs: (cached, uncached) shards with `latents` (float [n, C, H, W]) and `images` (uint8 [n, C, H, W]). Returns
    mse = mean |z - z0|^2 and relative_l2 = |z - z0| / |z0| of the final latents, and psnr of the images in dB
    (infinite when they are equal); nothing if there are no pairs.
    """
    squared = norm = pixels_squared = 0.0
    values = pixels = 0
    for cached, uncached in pairs:
        difference = cached["latents"].double() - uncached["latents"].double()
        squared += difference.square().sum().item()
        norm += uncached["latents"].double().square().sum().item()
        values += difference.numel()
        pixels_squared += (cached["images"].double() - uncached["images"].double()).square().sum().item()
        pixels += cached["images"].numel()
    if not values:
        return {}
    psnr = 10 * math.log10(255**2 * pixels / pixels_squared) if pixels_squared else math.inf
    return {"mse": squared / values, "relative_l2": math.sqrt(squared / norm), "psnr": psnr}
