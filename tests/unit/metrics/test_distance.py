import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from goc.metrics.distance import described, distance


def shards(latents: torch.Tensor, images: torch.Tensor, batch: int) -> list[dict[str, torch.Tensor]]:
    return [{"latents": x, "images": y} for x, y in zip(latents.split(batch), images.split(batch), strict=True)]


def test_distance_sums_over_all_batches() -> None:
    torch.manual_seed(0)
    latents, other = torch.randn(10, 2, 8, 8), torch.randn(10, 2, 8, 8)
    images, other_images = (torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8) for _ in range(2))
    run, target = shards(latents, images, 4), shards(other, other_images, 4)
    measured, each = distance(zip(run, target, strict=True))
    assert measured["mse"] == pytest.approx((latents - other).square().mean().item(), rel=1e-5)
    assert measured["relative_l2"] == pytest.approx(((latents - other).norm() / other.norm()).item(), rel=1e-5)
    mse = (images.double() - other_images.double()).square().mean().item()
    assert measured["psnr"] == pytest.approx(10 * math.log10(255**2 / mse))

    relative = (latents - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)
    np.testing.assert_allclose(each["relative_l2"], relative, rtol=1e-5)
    assert measured["relative_l2_mean"] == pytest.approx(relative.mean().item(), rel=1e-5)
    error = relative.std(correction=0).item() / math.sqrt(10)
    assert measured["relative_l2_mean_se"] == pytest.approx(error, rel=1e-5)
    assert measured["relative_l2_median"] == pytest.approx(relative.quantile(0.5).item(), rel=1e-5)
    assert measured["relative_l2_p95"] == pytest.approx(relative.quantile(0.95).item(), rel=1e-5)
    psnr = [peak_signal_noise_ratio(b.numpy(), a.numpy()) for a, b in zip(images, other_images, strict=True)]
    np.testing.assert_allclose(each["psnr_image"], psnr, rtol=1e-6)
    assert measured["psnr_image"] == pytest.approx(np.mean(psnr))
    assert len(each["ssim"]) == 10
    assert abs(measured["ssim"]) < 0.2  # of noise and other noise


def test_equal_samples_are_at_distance_zero() -> None:
    shard = {"latents": torch.randn(2, 1, 8, 8), "images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}
    measured, each = distance([(shard, shard)])
    assert (measured["mse"], measured["relative_l2"], measured["psnr"]) == (0.0, 0.0, math.inf)
    assert (measured["relative_l2_p95"], measured["ssim"]) == (0.0, 1.0)
    assert each["psnr_image"].tolist() == pytest.approx([10 * math.log10(255**2 * 64)] * 2)
    assert distance([]) == ({}, {})


def test_a_sample_that_went_elsewhere_moves_the_mean_and_not_the_median() -> None:
    near = np.full(99, 0.01)
    described_ = described(np.append(near, 2.0))
    assert described_["median"] == 0.01
    assert described_["mean"] == pytest.approx(0.0299)
