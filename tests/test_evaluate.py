import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from goc.digits import real_digits
from goc.errors import ConfigError, GocError
from goc.evaluate import distance, evaluate, extract, load_extractor, load_reference
from goc.files import ASSETS
from goc.models.decoder import to_uint8

CPU = torch.device("cpu")


class Images(Dataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Real digits, and the same number of them with noise: uint8 [300, 1, 8, 8] each."""
    real = real_digits()[0][:600]
    noisy = real[300:] + 0.4 * torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return to_uint8(real[:300]), to_uint8(noisy)


def test_metrics_are_torch_fidelitys(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, generated = images
    extractor = load_extractor("digits", CPU)
    own = evaluate(
        ["isc", "fid", "kid", "prc"],
        extract(generated.split(100), extractor, CPU),
        extract([real], extractor, CPU).features,
    )
    theirs = calculate_metrics(
        input1=Images(generated), input2=Images(real), feature_extractor="digits",
        isc=True, fid=True, kid=True, prc=True, kid_subset_size=300,
        cuda=False, verbose=False, cache=False, save_cpu_ram=True,
    )  # fmt: skip
    names = {"is": "inception_score_mean", "is_std": "inception_score_std", "fid": "frechet_inception_distance",
             "kid": "kernel_inception_distance_mean", "precision": "precision", "recall": "recall"}  # fmt: skip
    for name, key in names.items():
        assert own[name] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), name


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = scipy.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def test_fid_is_the_frechet_distance_by_the_textbook(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, generated = images
    extractor = load_extractor("digits", CPU)
    a, b = (extract([x], extractor, CPU) for x in (generated, real))
    means = [f.features.double().numpy().mean(axis=0) for f in (a, b)]
    covariances = [np.cov(f.features.double().numpy(), rowvar=False) for f in (a, b)]
    # the trace of (S1 S2)^(1/2), by the symmetric matrix of the same eigenvalues
    half = symmetric_root(covariances[0])
    root = symmetric_root(half @ covariances[1] @ half)
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert evaluate(["fid"], a, b.features)["fid"] == pytest.approx(expected, rel=1e-4)


def test_the_shipped_reference_is_the_real_images_features() -> None:
    features = extract([to_uint8(real_digits()[0])], load_extractor("digits", CPU), CPU).features
    reference = load_reference(ASSETS / "digits" / "reference.safetensors")
    torch.testing.assert_close(features, reference, rtol=1e-3, atol=1e-3)
    assert evaluate(["fid"], extract([to_uint8(real_digits()[0])], load_extractor("digits", CPU), CPU), reference)[
        "fid"
    ] == pytest.approx(0, abs=1e-3)


def test_an_unknown_extractor_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"model\.extractor=vgg: must be one of .*digits"):
        load_extractor("vgg", CPU)


def test_a_missing_reference_is_one_line(tmp_path) -> None:
    with pytest.raises(GocError, match=r"model\.reference=.*nowhere"):
        load_reference(tmp_path / "nowhere.safetensors")


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
