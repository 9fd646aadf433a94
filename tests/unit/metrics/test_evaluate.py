import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from real_data import real_digits
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

import goc.metrics.evaluate
import goc.metrics.statistics
from goc.metrics.evaluate import check_metrics, evaluate, needs_images
from goc.metrics.features import Features, load_extractor
from goc.metrics.reference import Reference
from goc.metrics.registry import METRICS
from goc.metrics.statistics import moments
from goc.models.decoder import to_uint8
from goc.system.errors import ConfigError

CPU = torch.device("cpu")


def reference_of(features: Tensor, spatial: Tensor | None = None, extractor: str = "digits") -> Reference:
    """A reference with the statistics of features [M, D] and spatial features [M, S]."""
    statistics = moments([features]).statistics()
    reference = Reference(Path("real"), "", extractor, None, None, **statistics, features=features)
    if spatial is None:
        return reference
    return replace(reference, mu_s=moments([spatial]).mu, sigma_s=moments([spatial]).sigma)


def in_batches(features: Features, size: int) -> Callable[[], Iterator[Features]]:
    def batches() -> Iterator[Features]:
        for start in range(0, len(features), size):
            part = slice(start, start + size)
            spatial = None if features.spatial is None else features.spatial[part]
            yield Features(features.features[part], features.logits[part], spatial)

    return batches


def random_features(count: int, size: int, spatial: int, seed: int) -> Features:
    """Features like an extractor's: not negative, correlated, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) / size**0.5
    features = (torch.randn(count, size, generator=generator) @ mix + 0.3 + 0.1 * seed).relu()
    logits = 2 * torch.randn(count, 10, generator=generator)
    return Features(features, logits, torch.rand(count, spatial, generator=generator) + 0.1 * seed)


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


@pytest.fixture(scope="module")
def digit_features(images: tuple[torch.Tensor, torch.Tensor]) -> tuple[Features, Features]:
    """The digits extractor's features of `images`: real, noisy."""
    extractor = load_extractor("digits", None, CPU)
    real, noisy = (extractor.extract(x) for x in images)
    return real, noisy


@pytest.mark.slow
def test_metrics_are_torch_fidelitys_on_the_same_images(
    images: tuple[torch.Tensor, torch.Tensor], digit_features: tuple[Features, Features]
) -> None:
    real, generated = digit_features
    ours = evaluate(["isc", "fid", "kid", "prc"], in_batches(generated, 100), 300, reference_of(real.features)).values
    theirs = calculate_metrics(
        input1=Images(images[1]), input2=Images(images[0]), feature_extractor="digits",
        isc=True, fid=True, kid=True, prc=True, kid_subset_size=300,
        cuda=False, verbose=False, cache=False, save_cpu_ram=True,
    )  # fmt: skip
    names = {"is": "inception_score_mean", "is_std": "inception_score_std", "fid": "frechet_inception_distance",
             "kid": "kernel_inception_distance_mean", "precision": "precision", "recall": "recall"}  # fmt: skip
    for name, key in names.items():
        # torch-fidelity takes its means in float32, over batches of another size
        assert ours[name] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(("count", "batch"), [
    (37, 5), (300, 300),
    *(pytest.param(*sizes, marks=pytest.mark.nightly) for sizes in ((1501, 64), (1501, 1), (2500, 999))),
])  # fmt: skip
def test_metrics_of_batches_are_torch_fidelitys_functions_on_all_features_together(count: int, batch: int) -> None:
    generated, real = random_features(count, 24, 11, seed=1), random_features(1200, 24, 11, seed=0)
    reference = reference_of(real.features, real.spatial, "inception")
    metrics = [name for name, metric in METRICS.items() if metric.features and not metric.second]
    ours = evaluate(metrics, in_batches(generated, batch), count, reference).values
    isc = isc_features_to_metric(generated.logits)
    kid = kid_features_to_metric(
        generated.features, real.features, kid_subset_size=min(1000, count), verbose=False
    )  # fmt: skip
    prc = prc_features_to_metric(generated.features, real.features, save_cpu_ram=True, verbose=False)
    theirs = {
        "is": isc["inception_score_mean"],
        "is_std": isc["inception_score_std"],
        "fid": fid_of_all(generated.features, real.features),
        "sfid": fid_of_all(generated.spatial, real.spatial),
        "kid": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "precision": prc["precision"],
        "recall": prc["recall"],
    }
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)
    errors = {name for name in ours if name.endswith("_se")}
    assert errors == {f"{name}_se" for name in ("is", "fid", "sfid", "kid", "precision", "recall")}
    assert all(ours[name] > 0 for name in errors)


def fid_of_all(generated: Tensor | None, real: Tensor | None) -> float:
    """torch-fidelity's FID of features in one piece."""
    assert generated is not None
    assert real is not None
    statistics = [fid_features_to_statistics(features.double()) for features in (generated, real)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize("batch", [1, 7, 250, 300])
def test_fid_of_batches_is_fid_of_all_on_features_that_are_often_dead(
    digit_features: tuple[Features, Features], batch: int
) -> None:
    # half of the digits extractor's features are zero for every real digit
    real, generated = digit_features
    fid = evaluate(["fid"], in_batches(generated, batch), 300, reference_of(real.features)).values["fid"]
    assert fid == pytest.approx(fid_of_all(generated.features, real.features), rel=1e-6)


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = scipy.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def test_fid_is_the_frechet_distance_by_the_textbook(digit_features: tuple[Features, Features]) -> None:
    real, generated = digit_features
    means = [f.features.double().numpy().mean(axis=0) for f in (generated, real)]
    covariances = [np.cov(f.features.double().numpy(), rowvar=False) for f in (generated, real)]
    # the trace of (S1 S2)^(1/2), by the symmetric matrix of the same eigenvalues
    half = symmetric_root(covariances[0])
    root = symmetric_root(half @ covariances[1] @ half)
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    scores = evaluate(["fid"], in_batches(generated, 64), 300, reference_of(real.features)).values
    assert scores["fid"] == pytest.approx(expected, rel=1e-4)


def test_fid_by_numpy_and_scipy_where_no_feature_is_dead() -> None:
    generated, real = random_features(900, 12, 9, seed=1), random_features(800, 12, 9, seed=0)
    scores = evaluate(
        ["fid", "sfid"], in_batches(generated, 64), 900, reference_of(real.features, real.spatial, "inception")
    ).values
    for name, ours, theirs in (
        ("fid", generated.features, real.features),
        ("sfid", generated.spatial, real.spatial),
    ):
        a, b = ours.double().numpy(), theirs.double().numpy()
        covariances = np.cov(a.T), np.cov(b.T)
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
        assert scores[name] == pytest.approx(expected, rel=1e-6), name


def test_kid_does_not_depend_on_how_many_subsets_are_gathered_together(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = random_features(150, 8, 8, seed=1), random_features(100, 8, 8, seed=0)
    reference = reference_of(real.features)
    at_once = evaluate(["kid"], in_batches(generated, 32), 150, reference).values
    monkeypatch.setattr(goc.metrics.evaluate, "KID_SUBSETS_TOGETHER", 7)
    assert evaluate(["kid"], in_batches(generated, 32), 150, reference).values == at_once


def test_precision_and_recall_keep_few_distances_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = random_features(2000, 8, 8, seed=1), random_features(700, 8, 8, seed=0)
    reference = reference_of(real.features)
    expected = evaluate(["prc"], in_batches(generated, 500), 2000, reference).values

    blocks: list[int] = []
    distances = goc.metrics.statistics._distances

    def measured(points: Tensor, others: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
        for rows, part in distances(points, others, block):
            blocks.append(part.untyped_storage().nbytes() // 4)
            yield rows, part

    monkeypatch.setattr(goc.metrics.statistics, "_distances", measured)
    monkeypatch.setattr(goc.metrics.evaluate, "PRC_BLOCK", 50 * 2000)
    assert evaluate(["prc"], in_batches(generated, 500), 2000, reference).values == pytest.approx(expected, abs=1e-3)
    assert max(blocks) == 50 * 2000


@pytest.mark.parametrize("metric", ["isc", "fid", "sfid", "kid"])
def test_one_batch_is_in_memory_at_a_time(metric: str) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def tracked(array: np.ndarray) -> Tensor:
        # a tensor on an array keeps it alive as long as any view of it lives
        alive.append(weakref.ref(array))
        return torch.from_numpy(array)

    def batches() -> Iterator[Features]:
        rng = np.random.default_rng(0)
        for _ in range(20):
            living = sum(reference() is not None for reference in alive)
            assert living <= 3, "arrays of more than the last batch are alive"
            yield Features(*(tracked(rng.random((50, size), dtype=np.float32)) for size in (16, 10, 12)))

    real = random_features(100, 16, 12, seed=0)
    evaluate([metric], batches, 1000, reference_of(real.features, real.spatial, "inception"))
    assert len(alive) >= 60


def test_a_batch_too_few_or_too_many_is_noticed() -> None:
    generated = random_features(50, 8, 8, seed=1)
    for count in (40, 60):
        with pytest.raises((ValueError, RuntimeError)):
            evaluate(["fid"], in_batches(generated, 10), count, reference_of(generated.features))


def test_a_metric_that_the_extractor_or_reference_cannot_give_is_one_line() -> None:
    reference = reference_of(random_features(20, 8, 8, seed=0).features)
    bare = replace(reference, path=Path("stats.npz"), features=None)
    with pytest.raises(ConfigError, match=r"^metrics=sfid: the extractor digits has no spatial features$"):
        check_metrics(["fid", "sfid"], reference)
    with pytest.raises(ConfigError, match=r"^metrics=sfid: the reference stats.npz has no spatial statistics \(mu_s"):
        check_metrics(["sfid"], replace(bare, extractor="inception"))
    for name in ("kid", "prc"):
        with pytest.raises(ConfigError, match=rf"^metrics={name}: the reference stats.npz has no images \(arr_0\)$"):
            evaluate(["fid", name], lambda: iter(()), 0, bare)
    with pytest.raises(ConfigError, match=r"^metrics=prc: the reference real has 3 images, at least 4 are needed$"):
        check_metrics(["kid", "prc"], replace(reference, features=reference.features[:3]))
    check_metrics(["isc", "fid"], bare)


def test_only_kid_and_precision_need_the_references_images() -> None:
    of_second = [f"{kind}_{name}" for name in ("dinov2", "second") for kind in ("kd", "prc")]
    assert [name for name in METRICS if needs_images([name])] == ["kid", "prc", *of_second]


def test_without_a_reference_there_is_what_is_compared_with_nothing() -> None:
    generated = random_features(40, 24, 11, seed=1)
    assert evaluate(["isc"], in_batches(generated, 7), 40, None).values["is"] >= 1
    for name in ("fid", "prc"):
        with pytest.raises(ConfigError, match=f"^metrics={name}: needs a reference$"):
            evaluate(["isc", name], in_batches(generated, 7), 40, None)
