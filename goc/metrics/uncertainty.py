"""How far a metric would move with other seeds, from one run: each sample's influence on it.

The influence of sample n is the first-order change of a metric when the sample gets more weight. Its mean over the
samples is zero, and the metric's standard error is its spread over sqrt(N). Two runs of the same seeds differ by less
than either moves: the error of their difference is the spread of the difference of their influences.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from goc.metrics.statistics import Moments

SMALLEST_EIGENVALUE = 1e-10  # of the largest; smaller ones are directions in which there is nothing
LOG_NODES = (-14.0, 10.0, 0.25)  # of the integral, first, last and step, in units of the largest eigenvalue's root


def _root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric positive semidefinite matrix [D, D]."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T


def _directions(sigma: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S^1/2 U and the eigenvalues of S^1/2 Sigma S^1/2, U its eigenvectors: [D, K] and [K], where it is not zero.

    sigma and reference: Sigma and S, [D, D].
    """
    root = _root(reference)
    values, vectors = np.linalg.eigh(root @ sigma @ root)
    kept = values > SMALLEST_EIGENVALUE * values.max()
    return root @ vectors[:, kept], values[kept]


@dataclass(frozen=True)
class FrechetInfluence:
    """Influence of samples on the Frechet distance of their moments (mu, Sigma) to others (m, S): the exact jackknife.

    It is N - 1 times the distance of all samples less that of all but one. For many samples this becomes the derivative
    2 (mu - m).(f - mu) + (f - mu)' G (f - mu) - tr(G Sigma), G = I - S^1/2 (S^1/2 Sigma S^1/2)^-1/2 S^1/2, but with
    about as many samples as features, or fewer, the derivative is off by half: the root's trace is too curved.

    Without sample n, M = S^1/2 Sigma S^1/2 becomes a multiple of M - v v', v = sqrt(N) / (N - 1) S^1/2 (f - mu), and

        tr M^1/2 - tr (M - v v')^1/2 = -1/pi int_0^inf log(1 - v' (M + s^2)^-1 v) ds

    (from M^1/2 = 1/pi int t^-1/2 M (M + t)^-1 dt and the determinant of a rank-one change). In M's eigenvectors the
    inner product is a sum over D, for all samples and all nodes s of the integral one matrix product.
    """

    moments: Moments
    mean: np.ndarray  # m, [D]
    projection: np.ndarray  # sqrt(N) / (N - 1) S^1/2 U, [D, D]: to M's eigenvectors U
    eigenvalues: np.ndarray  # of M, [D]

    @classmethod
    def of(cls, moments: Moments, mu: np.ndarray, sigma: np.ndarray) -> "FrechetInfluence":
        """For samples of these moments (three at least) and a reference's mu [D] and sigma [D, D]."""
        directions, eigenvalues = _directions(moments.sigma, sigma)
        return cls(moments, mu, math.sqrt(moments.count) / (moments.count - 1) * directions, eigenvalues)

    def __call__(self, batches: Iterable[Tensor]) -> np.ndarray:
        """Influence of every sample of feature batches [n, D], in order: float64 [N], of mean zero."""
        count, mu, slope = self.moments.count, self.moments.mu, self.moments.mu - self.mean
        nodes = math.sqrt(self.eigenvalues.max()) * np.exp(np.arange(*LOG_NODES))  # [J], the trapezoidal rule in log s
        inverse = 1 / (self.eigenvalues[:, None] + nodes**2)  # [D, J]
        trace, grown = np.trace(self.moments.sigma), math.sqrt((count - 1) / (count - 2))
        root_trace = np.sqrt(self.eigenvalues).sum()
        distances = []
        for batch in batches:
            centred = batch.double().numpy() - mu
            squares, along = (centred**2).sum(axis=1), (centred @ self.projection) ** 2
            # the rest of the integral beyond the last node is |v|^2 / s
            logarithms = np.log1p(-np.minimum(along @ inverse, 1 - 1e-16))
            change = -(logarithms @ nodes) * LOG_NODES[2] + along.sum(axis=1) / nodes[-1]
            root = root_trace - change / math.pi
            means = (slope**2).sum() - 2 * (centred @ slope) / (count - 1) + squares / (count - 1) ** 2
            traces = (trace - squares * count / (count - 1) ** 2) * grown**2
            distances.append(means + traces - 2 * grown * root)  # up to tr S
        without = np.concatenate(distances)
        return (count - 1) * (without.mean() - without)


@dataclass(frozen=True)
class FrechetDerivative:
    """The derivative of a Frechet distance with respect to the weight of one sample of (mu, Sigma), others (m, S) held.

    For the distance between two nearly equal sets of the same seeds, where the jackknife of one set alone would measure
    the distance that it makes itself. With both sets' derivatives added, sample by sample, what they share cancels.
    """

    mu: np.ndarray  # [D]
    slope: np.ndarray  # 2 (mu - m), [D]
    curvature: np.ndarray  # G = I - S^1/2 (S^1/2 Sigma S^1/2)^-1/2 S^1/2, [D, D]

    @classmethod
    def of(cls, moments: Moments, other: Moments) -> "FrechetDerivative":
        """For samples of these moments, against others."""
        directions, eigenvalues = _directions(moments.sigma, other.sigma)
        half = directions * eigenvalues**-0.25
        return cls(moments.mu, 2 * (moments.mu - other.mu), np.eye(len(moments.mu)) - half @ half.T)

    def __call__(self, batches: Iterable[Tensor]) -> np.ndarray:
        """2 (mu - m).(f - mu) + (f - mu)' G (f - mu) less its mean, of every sample of batches [n, D]: float64 [N]."""
        parts = []
        for batch in batches:
            centred = batch.double().numpy() - self.mu
            parts.append(centred @ self.slope + ((centred @ self.curvature) * centred).sum(axis=1))
        influence = np.concatenate(parts)
        return influence - influence.mean()


def score_influence(divergences: np.ndarray) -> np.ndarray:
    """Influence of samples on the Inception score exp(mean KL), from each one's KL(p | mean p) [N]."""
    mean = divergences.mean()
    return math.exp(mean) * (divergences - mean)
