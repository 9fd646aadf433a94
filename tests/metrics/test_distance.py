import math

import pytest
import torch

from goc.metrics.distance import distance


def test_distance_sums_over_all_batches() -> None:
    torch.manual_seed(0)
    latents, other = torch.randn(10, 2, 4, 4), torch.randn(10, 2, 4, 4)
    images, other_images = (torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8) for _ in range(2))
    cached = [{"latents": x, "images": y} for x, y in zip(latents.split(4), images.split(4), strict=True)]
    uncached = [{"latents": x, "images": y} for x, y in zip(other.split(4), other_images.split(4), strict=True)]
    measured = distance(zip(cached, uncached, strict=True))
    assert measured["mse"] == pytest.approx((latents - other).square().mean().item())
    assert measured["relative_l2"] == pytest.approx(((latents - other).norm() / other.norm()).item())
    mse = (images.double() - other_images.double()).square().mean().item()
    assert measured["psnr"] == pytest.approx(10 * math.log10(255**2 / mse))


def test_equal_samples_are_at_distance_zero() -> None:
    shard = {"latents": torch.randn(2, 1, 2, 2), "images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}
    assert distance([(shard, shard)]) == {"mse": 0.0, "relative_l2": 0.0, "psnr": math.inf}
