"""Errors from one run are the spread over many: on Gaussians, whose distances are known."""

import math

import numpy as np
import pytest
import torch

from goc.metrics.errors import binomial_error, paired_error, quantile_error, standard_error
from goc.metrics.evaluate import drift, frechet
from goc.metrics.statistics import divergences, moments
from goc.metrics.uncertainty import FrechetDerivative, FrechetInfluence, score_influence

REPETITIONS = 200


def distance(samples: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    """By the textbook: numpy's covariance and the eigenvalues of the product."""
    mean, covariance = samples.mean(axis=0), np.cov(samples, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(covariance @ sigma).real.clip(min=0)).sum()
    return float(((mean - mu) ** 2).sum() + np.trace(covariance) + np.trace(sigma) - 2 * roots)


def influence(samples: np.ndarray, mu: np.ndarray, sigma: np.ndarray, batch: int = 7) -> np.ndarray:
    rows = torch.from_numpy(samples)
    return FrechetInfluence.of(moments([rows]), mu, sigma)(iter(rows.split(batch)))


@pytest.mark.parametrize(("size", "count"), [(5, 40), (20, 30), (40, 25)])  # and fewer samples than features
def test_influence_is_what_leaving_a_sample_out_does(size: int, count: int) -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(size, size)) / math.sqrt(size)
    sigma, mu = root @ root.T + 0.1 * np.eye(size), rng.normal(size=size)
    samples = 1.2 * rng.normal(size=(count, size)) @ np.linalg.cholesky(sigma).T + 0.2
    without = np.array([distance(np.delete(samples, n, 0), mu, sigma) for n in range(count)])
    expected = (count - 1) * (without.mean() - without)
    np.testing.assert_allclose(influence(samples, mu, sigma), expected, atol=1e-3, rtol=1e-3)


def test_with_many_samples_influence_is_the_derivative() -> None:
    rng = np.random.default_rng(0)
    samples, other = 1.3 * rng.normal(size=(20000, 4)) + 0.3, rng.normal(size=(20000, 4))
    reference = moments([torch.from_numpy(other)])
    derivative = FrechetDerivative.of(moments([torch.from_numpy(samples)]), reference)([torch.from_numpy(samples)])
    np.testing.assert_allclose(influence(samples, reference.mu, reference.sigma, 5000), derivative, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "count", "decay"),
    [
        (16, 500, 1.0),
        pytest.param(16, 5000, 1.0, marks=pytest.mark.nightly),
        pytest.param(64, 500, 1.0, marks=pytest.mark.nightly),
        pytest.param(64, 50, 2.0, marks=pytest.mark.nightly),
        (24, 20, 2.0),
    ],  # the last two: fewer samples than features
)
def test_predicted_errors_are_the_spread_over_repetitions(size: int, count: int, decay: float) -> None:
    """Single distances, and differences of two sets of the same seeds; variances of features fall as 1 / k^decay."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, size + 1) ** (-decay / 2)
    mu, sigma = np.zeros(size), np.diag(scale**2)
    single, paired, predicted, predicted_paired = [], [], [], []
    for _ in range(REPETITIONS):
        first = scale * (1.1 * rng.normal(size=(count, size)) + 0.2)
        second = 0.95 * first + 0.2 * scale * rng.normal(size=(count, size))
        one, other = (frechet("fid", lambda x=x: iter([torch.from_numpy(x)]), mu, sigma) for x in (first, second))
        single.append(one.values["fid"])
        paired.append(other.values["fid"] - one.values["fid"])
        predicted.append(one.values["fid_se"])
        predicted_paired.append(paired_error([(other.influence["fid"], one.influence["fid"])]))
    assert np.mean(predicted) == pytest.approx(np.std(single, ddof=1), rel=0.15)
    assert np.mean(predicted_paired) == pytest.approx(np.std(paired, ddof=1), rel=0.15)


@pytest.mark.slow
def test_the_error_of_a_drift_is_its_spread_over_repetitions() -> None:
    rng = np.random.default_rng(0)
    values, predicted = [], []
    for _ in range(REPETITIONS):
        target = rng.normal(size=(400, 8))
        samples = 0.9 * target + 0.1 + 0.1 * rng.normal(size=(400, 8))
        scores = drift(lambda x=samples: iter([torch.from_numpy(x)]), lambda x=target: iter([torch.from_numpy(x)]))
        values.append(scores.values["drift"])
        predicted.append(scores.values["drift_se"])
    assert np.mean(predicted) == pytest.approx(np.std(values, ddof=1), rel=0.15)


def test_a_run_has_no_drift_from_itself() -> None:
    samples = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    values = drift(lambda: iter([samples]), lambda: iter(samples.split(9))).values
    assert values["drift"] == pytest.approx(0, abs=1e-6)
    assert values["drift_se"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_the_error_of_an_inception_score_is_its_spread_over_repetitions() -> None:
    rng = np.random.default_rng(0)
    scores, predicted = [], []
    for _ in range(REPETITIONS):
        logits = torch.from_numpy(2 * rng.normal(size=(500, 5)))
        kl = divergences(lambda x=logits: iter(x.split(64)))
        scores.append(math.exp(kl.mean()))
        predicted.append(standard_error(score_influence(kl)))
    assert np.mean(predicted) == pytest.approx(np.std(scores, ddof=1), rel=0.15)


def test_divergences_are_those_of_scipy() -> None:
    from scipy.special import rel_entr

    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(dim=1).numpy()
    np.testing.assert_allclose(divergences(lambda: iter(logits.split(7))), rel_entr(p, p.mean(axis=0)).sum(axis=1))


def test_pooled_seeds_and_shares_and_quantiles() -> None:
    first, second = np.array([1.0, -1.0, 1.0, -1.0]), np.zeros(4)
    assert standard_error(first) == 0.5
    assert paired_error([(first, first)]) == 0.0
    assert paired_error([(first, second), (first, second)]) == pytest.approx(0.5 / math.sqrt(2))
    assert binomial_error(0.5, 100) == 0.05
    rng = np.random.default_rng(0)
    medians = [np.median(rng.exponential(size=400)) for _ in range(500)]
    predicted = np.mean([quantile_error(rng.exponential(size=400), 0.5) for _ in range(500)])
    assert predicted == pytest.approx(np.std(medians), rel=0.15)
