"""Image quality: metrics as torch-fidelity defines them, and the distance to the uncached run of the same seeds."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from torch import Tensor
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd

from goc.errors import ConfigError
from goc.features import EXTRACTORS, Features
from goc.reference import Reference
from goc.statistics import gather, moments, share_within
from goc.statistics import inception_score as score

IS_SPLITS = 10
KID_SUBSET_SIZE = 1000
KID_SUBSETS_TOGETHER = 10  # gathered in one pass over the samples; of Inception's features 80 MB
PRC_NEIGHBORHOOD = 3
PRC_BLOCK = 2_000_000  # distances in memory at a time

Batches = Callable[[], Iterator[Features]]  # the samples' features in order, from the start at each call


def inception_score(batches: Batches, count: int, reference: Reference) -> dict[str, float]:
    """IS over 10 splits (Salimans et al., arXiv 1606.03498)."""
    mean, deviation = score((batch.logits for batch in batches()), count, min(IS_SPLITS, count))
    return {"is": mean, "is_std": deviation}


def frechet(features: Iterable[Tensor], mu: np.ndarray, sigma: np.ndarray) -> float:
    """Frechet distance between batches of features [n, D] and a reference's statistics."""
    own = moments(features).statistics()
    return fid_statistics_to_metric(own, {"mu": mu, "sigma": sigma}, verbose=False)["frechet_inception_distance"]


def fid(batches: Batches, count: int, reference: Reference) -> dict[str, float]:
    """Frechet distance (Heusel et al., arXiv 1706.08500)."""
    return {"fid": frechet((batch.features for batch in batches()), reference.mu, reference.sigma)}


def _spatial(batches: Batches) -> Iterator[Tensor]:
    for batch in batches():
        assert batch.spatial is not None
        yield batch.spatial


def sfid(batches: Batches, count: int, reference: Reference) -> dict[str, float]:
    """Frechet distance of spatial features (Nash et al., arXiv 2103.03841)."""
    assert reference.mu_s is not None
    assert reference.sigma_s is not None
    return {"sfid": frechet(_spatial(batches), reference.mu_s, reference.sigma_s)}


def kid(batches: Batches, count: int, reference: Reference) -> dict[str, float]:
    """Kernel distance over 100 random subsets (Binkowski et al., arXiv 1801.01401).

    The subsets are those that torch-fidelity draws; only the rows of a few are in memory at a time.
    """
    assert reference.features is not None
    real = reference.features.numpy()
    size, subsets = min(KID_SUBSET_SIZE, count, len(real)), DEFAULTS["kid_subsets"]
    rng = np.random.RandomState(DEFAULTS["rng_seed"])
    distances: list[float] = []
    while len(distances) < subsets:
        draws = [
            # copies: a choice is a view of a permutation of all samples
            (rng.choice(count, size, replace=False).copy(), rng.choice(len(real), size, replace=False).copy())
            for _ in range(min(KID_SUBSETS_TOGETHER, subsets - len(distances)))
        ]
        generated = gather((batch.features for batch in batches()), np.concatenate([own for own, _ in draws]))
        for rows, (_, of_reference) in zip(generated.split(size), draws, strict=True):
            distances.append(float(kernel_mmd(rows.numpy(), real[of_reference])))
    return {"kid": float(np.mean(distances)), "kid_std": float(np.std(distances))}


def precision_recall(batches: Batches, count: int, reference: Reference) -> dict[str, float]:
    """Improved precision and recall, 3 neighbours (Kynkaanniemi et al., arXiv 1904.06991).

    Every sample is compared with every other, so all features are in memory as float32 (50,000 of Inception's: 400 MB);
    of the distances never more than PRC_BLOCK are. torch-fidelity's own function has square blocks: a few rows of all
    distances, which is what the neighbours are found in, then take hundreds of thousands of them.
    """
    assert reference.features is not None
    real = reference.features
    generated = gather((batch.features for batch in batches()), np.arange(count))
    return {
        "precision": share_within(generated, real, PRC_NEIGHBORHOOD, PRC_BLOCK),
        "recall": share_within(real, generated, PRC_NEIGHBORHOOD, PRC_BLOCK),
    }


@dataclass(frozen=True)
class Metric:
    """A metric of the features of `count` generated samples, in batches, against a reference.

    minimum_samples: the fewest samples it is defined for. needs: what not every extractor and reference has: spatial
    features, or the features of the reference's single images.
    """

    compute: Callable[[Batches, int, Reference], dict[str, float]]
    minimum_samples: int
    needs: Literal["spatial", "images"] | None = None


METRICS = {
    "isc": Metric(inception_score, 1),
    "fid": Metric(fid, 2),
    "sfid": Metric(sfid, 2, needs="spatial"),
    "kid": Metric(kid, 2, needs="images"),
    "prc": Metric(precision_recall, PRC_NEIGHBORHOOD + 1, needs="images"),
}


def needs_images(metrics: Iterable[str]) -> bool:
    """Whether any of the named metrics needs the features of the reference's single images."""
    return any(METRICS[name].needs == "images" for name in metrics)


def check_metrics(metrics: Iterable[str], reference: Reference) -> None:
    """Raise ConfigError for a metric that the reference, or its extractor, cannot give.

    To be called before generating, so that no samples are made in vain.
    """
    for name in metrics:
        metric = METRICS[name]
        if metric.needs == "spatial" and not EXTRACTORS[reference.extractor].spatial_size:
            raise ConfigError(f"metrics={name}: the extractor {reference.extractor} has no spatial features")
        if metric.needs == "spatial" and (reference.mu_s is None or reference.sigma_s is None):
            raise ConfigError(
                f"metrics={name}: the reference {reference.path} has no spatial statistics (mu_s, sigma_s)"
            )
        if metric.needs == "images" and reference.features is None:
            raise ConfigError(f"metrics={name}: the reference {reference.path} has no images (arr_0)")
        if (
            metric.needs == "images"
            and reference.features is not None
            and len(reference.features) < metric.minimum_samples
        ):
            raise ConfigError(
                f"metrics={name}: the reference {reference.path} has {len(reference.features)} images, "
                f"at least {metric.minimum_samples} are needed"
            )


def _counted(batches: Batches, count: int) -> Iterator[Features]:
    seen = 0
    for batch in batches():
        seen += len(batch)
        yield batch
    if seen != count:
        raise ValueError(f"features of {seen} samples, not of {count}")


def evaluate(metrics: Sequence[str], batches: Batches, count: int, reference: Reference) -> dict[str, float]:
    """The named metrics of `count` samples against a reference, equal to torch-fidelity's on all features together.

    batches() iterates over the samples' features in order; it is called once a metric, more often for KID. Memory does
    not grow with the samples except for precision and recall. Raises ConfigError as `check_metrics` does.
    """
    check_metrics(metrics, reference)
    values: dict[str, float] = {}
    for name in metrics:
        values |= METRICS[name].compute(partial(_counted, batches, count), count, reference)
    return values


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
