"""How far samples are from others of the same seeds: a cache's from those of its target, or from the converged ones."""

import math
from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

from goc.metrics.errors import quantile_error, standard_error
from goc.sampling.distance import relative_distances as distance_of_latents
from goc.sampling.frames import count_of, frames_of, mean_over_frames

QUANTILES = {"median": 0.5, "p95": 0.95}
SMALLEST_FOR_SSIM = 7  # pixels a side: the window

Pair = tuple[dict[str, Tensor], dict[str, Tensor]]  # shards of the same samples: a run's, its target's


def relative_distances(latents: Tensor, targets: Tensor) -> np.ndarray:
    """|z - z0| / |z0| of each sample of latents [n, C, H, W]: float64 [n]."""
    return distance_of_latents(latents.double(), targets.double()).numpy()


def described(values: np.ndarray) -> dict[str, float]:
    """Mean, median and 95th percentile of per-sample values [N], each with its standard error (NAME_se)."""
    numbers = {"mean": float(values.mean()), "mean_se": standard_error(values)}
    for name, quantile in QUANTILES.items():
        numbers |= {name: float(np.quantile(values, quantile)), f"{name}_se": quantile_error(values, quantile)}
    return numbers


def peak_signal_to_noise(images: Tensor, targets: Tensor) -> np.ndarray:
    """PSNR of each of uint8 images [n, C, H, W] in dB; of equal ones as if one value of theirs differed by one."""
    squares = (images.double() - targets.double()).square().flatten(1)
    return (10 * (255**2 * squares.shape[1] / squares.sum(dim=1).clamp(min=1)).log10()).numpy()


def structural_similarity(images: Tensor, targets: Tensor) -> np.ndarray:
    """SSIM of each of uint8 images [n, C, H, W] (Wang et al. 2004), by scikit-image: 7 x 7 windows, uniform weights."""
    from skimage.metrics import structural_similarity as ssim

    pictures = zip(images.numpy(), targets.numpy(), strict=True)
    return np.array([ssim(a, b, channel_axis=0, data_range=255) for a, b in pictures])


def distance(
    pairs: Iterable[Pair], perceptual: Callable[[Tensor, Tensor], np.ndarray] | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Distances of samples to others of the same seeds, over all batches together, and those of each sample [N].

    pairs: shards with `latents` (float [n, C, H, W]) and `images` (uint8 [n, C, H, W]). Of the final latents:
    mse = mean |z - z0|^2, relative_l2 = |z - z0| / |z0| of all together, and of each sample as relative_l2_mean,
    _median and _p95. Of the images: psnr of all together in dB (infinite when they are equal), psnr_image and ssim as
    means over images, and lpips if there is a `perceptual` distance. Errors are NAME_se. Nothing if there are no pairs.
    Of videos, whose frames lie side by side, the last three are means over their frames.
    """
    squared = norm = pixels_squared = 0.0
    values = pixels = 0
    each: dict[str, list[np.ndarray]] = {"relative_l2": [], "psnr_image": [], "ssim": [], "lpips": []}
    for run, target in pairs:
        difference = run["latents"].double() - target["latents"].double()
        squared += difference.square().sum().item()
        norm += target["latents"].double().square().sum().item()
        values += difference.numel()
        pixels_squared += (run["images"].double() - target["images"].double()).square().sum().item()
        pixels += run["images"].numel()
        each["relative_l2"].append(relative_distances(run["latents"], target["latents"]))
        count = count_of(run)
        images = [frames_of(of["images"], count) for of in (run, target)]
        each["psnr_image"].append(mean_over_frames(peak_signal_to_noise(*images), count))
        if min(images[0].shape[-2:]) >= SMALLEST_FOR_SSIM:
            each["ssim"].append(mean_over_frames(structural_similarity(*images), count))
        if perceptual is not None:
            each["lpips"].append(mean_over_frames(perceptual(*images), count))
    if not values:
        return {}, {}
    samples = {name: np.concatenate(parts) for name, parts in each.items() if parts}
    psnr = 10 * math.log10(255**2 * pixels / pixels_squared) if pixels_squared else math.inf
    numbers = {"mse": squared / values, "relative_l2": math.sqrt(squared / norm), "psnr": psnr}
    numbers |= {f"relative_l2_{name}": value for name, value in described(samples["relative_l2"]).items()}
    for name in ("psnr_image", "ssim", "lpips"):
        if name in samples:
            numbers |= {name: float(samples[name].mean()), f"{name}_se": standard_error(samples[name])}
    return numbers, samples
