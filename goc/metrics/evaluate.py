"""Image quality: the metrics as torch-fidelity defines them, of features that come in batches."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
from torch import Tensor

from goc.metrics.errors import binomial_error, standard_error
from goc.metrics.features import Features
from goc.metrics.fidelity import DEFAULTS, fid_statistics_to_metric, kernel_mmd
from goc.metrics.reference import Reference
from goc.metrics.registry import METRICS, PRC_NEIGHBORHOOD, extractor_kind
from goc.metrics.statistics import divergences, gather, moments, share_within
from goc.metrics.statistics import inception_score as score
from goc.metrics.uncertainty import FrechetDerivative, FrechetInfluence, score_influence
from goc.system.errors import ConfigError
from goc.system.registry import load_object

IS_SPLITS = 10
FEWEST_FOR_INFLUENCE = 3  # samples
KID_SUBSET_SIZE = 1000
KID_SUBSETS_TOGETHER = 10  # gathered in one pass over the samples; of Inception's features 80 MB
PRC_BLOCK = 2_000_000  # distances in memory at a time

Batches = Callable[[], Iterator[Features]]  # the samples' features in order, from the start at each call


@dataclass
class Scores:
    """Numbers of a metric, with standard errors (NAME_se), and each sample's influence [N] on those that have one."""

    values: dict[str, float] = field(default_factory=dict)
    influence: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, other: "Scores") -> None:
        """Take in another metric's."""
        self.values |= other.values
        self.influence |= other.influence


def parts(batches: Batches, name: str = "features") -> Iterator[Tensor]:
    """One part of the features by its name in `Features`: those for FID, logits, or spatial."""
    return (getattr(batch, name) for batch in batches())


def inception_score(batches: Batches, count: int, reference: Reference) -> Scores:
    """IS over 10 splits (Salimans et al., arXiv 1606.03498); its error is that of the score of all samples together."""
    mean, deviation = score(parts(batches, "logits"), count, min(IS_SPLITS, count))
    influence = score_influence(divergences(lambda: parts(batches, "logits")))
    return Scores({"is": mean, "is_std": deviation, "is_se": standard_error(influence)}, {"is": influence})


def frechet(name: str, features: Callable[[], Iterator[Tensor]], mu: np.ndarray, sigma: np.ndarray) -> Scores:
    """Frechet distance between features, in batches [n, D] at each call, and a reference's statistics."""
    generated = moments(features())
    reference = {"mu": mu, "sigma": sigma}
    distance = fid_statistics_to_metric(generated.statistics(), reference, verbose=False)["frechet_inception_distance"]
    if generated.count < FEWEST_FOR_INFLUENCE:
        return Scores({name: distance})
    influence = FrechetInfluence.of(generated, mu, sigma)(features())
    return Scores({name: distance, f"{name}_se": standard_error(influence)}, {name: influence})


def fid(batches: Batches, count: int, reference: Reference, name: str = "fid") -> Scores:
    """Frechet distance (Heusel et al., arXiv 1706.08500)."""
    return frechet(name, lambda: parts(batches), reference.mu, reference.sigma)


def sfid(batches: Batches, count: int, reference: Reference) -> Scores:
    """Frechet distance of spatial features (Nash et al., arXiv 2103.03841)."""
    mu, sigma = cast(np.ndarray, reference.mu_s), cast(np.ndarray, reference.sigma_s)
    return frechet("sfid", lambda: parts(batches, "spatial"), mu, sigma)


def kid(batches: Batches, count: int, reference: Reference, name: str = "kid") -> Scores:
    """Kernel distance over 100 random subsets (Binkowski et al., arXiv 1801.01401).

    The subsets are those that torch-fidelity draws; only the rows of a few are in memory at a time. The error is the
    subsets' spread, scaled from their size to all samples; up to a subset's size (1,000) it is the reference's alone.
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
        generated = gather(parts(batches), np.concatenate([chosen for chosen, _ in draws]))
        for rows, (_, of_reference) in zip(generated.split(size), draws, strict=True):
            distances.append(float(kernel_mmd(rows.numpy(), real[of_reference])))
    spread = float(np.std(distances))
    error = spread * math.sqrt(size / count)
    return Scores({name: float(np.mean(distances)), f"{name}_std": spread, f"{name}_se": error})


def precision_recall(batches: Batches, count: int, reference: Reference, of: str = "") -> Scores:
    """Improved precision and recall, 3 neighbours (Kynkaanniemi et al., arXiv 1904.06991), with binomial errors.

    Every sample is compared with every other, so all features are in memory as float32 (50,000 of Inception's: 400 MB);
    of the distances never more than PRC_BLOCK are. torch-fidelity's own function has square blocks: a few rows of all
    distances, which is what the neighbours are found in, then take hundreds of thousands of them. of: what the numbers'
    names end with.
    """
    assert reference.features is not None
    real = reference.features
    generated = gather(parts(batches), np.arange(count))
    precision = share_within(generated, real, PRC_NEIGHBORHOOD, PRC_BLOCK)
    recall = share_within(real, generated, PRC_NEIGHBORHOOD, PRC_BLOCK)
    errors = {
        f"precision{of}_se": binomial_error(precision, count),
        f"recall{of}_se": binomial_error(recall, len(real)),
    }
    return Scores({f"precision{of}": precision, f"recall{of}": recall, **errors})


fd_dinov2, fd_second = (partial(fid, name=f"fd_{of}") for of in ("dinov2", "second"))
kd_dinov2, kd_second = (partial(kid, name=f"kd_{of}") for of in ("dinov2", "second"))
prc_dinov2, prc_second = (partial(precision_recall, of=f"_{of}") for of in ("dinov2", "second"))


def needs_images(metrics: Iterable[str]) -> bool:
    """Whether any of the named metrics needs the features of the reference's single images."""
    return any(METRICS[name].needs == "images" for name in metrics)


def check_metrics(metrics: Iterable[str], reference: Reference | None) -> None:
    """Raise ConfigError for a metric that the reference, or its extractor, cannot give; None: there is none.

    To be called before generating, so that no samples are made in vain.
    """
    for name in metrics:
        metric = METRICS[name]
        if reference is None:
            if metric.compares:
                raise ConfigError(f"metrics={name}: needs a reference")
            continue
        if metric.needs == "spatial" and not extractor_kind(reference.extractor).spatial_size:
            raise ConfigError(f"metrics={name}: the extractor {reference.extractor} has no spatial features")
        if metric.needs == "spatial" and (reference.mu_s is None or reference.sigma_s is None):
            raise ConfigError(
                f"metrics={name}: the reference {reference.path} has no spatial statistics (mu_s, sigma_s)"
            )
        if metric.needs != "images":
            continue
        if reference.features is None:
            raise ConfigError(f"metrics={name}: the reference {reference.path} has no images (arr_0)")
        if len(reference.features) < metric.minimum_samples:
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


def evaluate(metrics: Sequence[str], batches: Batches, count: int, reference: Reference | None) -> Scores:
    """The named metrics of `count` samples against a reference, equal to torch-fidelity's on all features together.

    batches() iterates over the samples' features in order; it is called twice or thrice a metric, more often for KID.
    Memory does not grow with the samples except for precision and recall. Raises ConfigError as `check_metrics` does.
    """
    check_metrics(metrics, reference)
    scores = Scores()
    for name in metrics:
        # those that compare nothing do not look at it
        compute = load_object(METRICS[name].features or "")
        scores.add(compute(partial(_counted, batches, count), count, cast(Reference, reference)))
    return scores


def mean_score(name: str, values: np.ndarray) -> Scores:
    """A number that each sample has by itself, [N]: its mean."""
    return Scores({name: float(values.mean()), f"{name}_se": standard_error(values)}, {name: values})


def drift(features: Callable[[], Iterator[Tensor]], targets: Callable[[], Iterator[Tensor]]) -> Scores:
    """Frechet distance between features [n, D] of a run and those of its targets on the same seeds; 0: no loss.

    Of fewer than two samples it is not defined, and nothing is returned.
    """
    ours, theirs = moments(features()), moments(targets())
    if ours.count < METRICS["fid"].minimum_samples:
        return Scores()
    statistics = (ours.statistics(), theirs.statistics())
    distance = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    influence = FrechetDerivative.of(ours, theirs)(features()) + FrechetDerivative.of(theirs, ours)(targets())
    return Scores({"drift": distance, "drift_se": standard_error(influence)}, {"drift": influence})
