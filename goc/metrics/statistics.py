"""Statistics of features that come in batches, as sums or rows picked out: memory does not grow with the samples."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from goc.metrics.fidelity import DEFAULTS

CDIST_COLUMNS = 4096  # torch.cdist copies its operands, so it is given few rows of them at a time


class Moments:
    """Mean and covariance of rows [*, D] that come in batches, float64.

    Means and centred products are merged batch by batch (Chan, Golub and LeVeque 1983), so nothing cancels, however
    far from zero the rows are.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mu = np.zeros(size)
        self.products = np.zeros((size, size))

    def add(self, rows: Tensor) -> None:
        """Take in a batch [n, D]."""
        x = rows.double().numpy()
        mean = x.mean(axis=0)
        x = x - mean
        shift, total = mean - self.mu, self.count + len(x)
        self.products += x.T @ x
        self.products += np.outer(shift, shift * (self.count * len(x) / total))
        self.mu = self.mu + shift * (len(x) / total)
        self.count = total

    @property
    def sigma(self) -> np.ndarray:
        """Covariance [D, D], with n - 1 as in numpy.cov; defined for two rows and more."""
        return self.products / (self.count - 1)

    def statistics(self) -> dict[str, np.ndarray]:
        """What torch-fidelity's FID is computed from."""
        return {"mu": self.mu, "sigma": self.sigma}


def moments(batches: Iterable[Tensor]) -> Moments:
    """Mean and covariance of all rows of batches [n, D]; there must be one batch at least."""
    total: Moments | None = None
    for batch in batches:
        total = total or Moments(batch.shape[1])
        total.add(batch)
    assert total is not None
    return total


def inception_score(batches: Iterable[Tensor], count: int, splits: int) -> tuple[float, float]:
    """Mean and standard deviation over splits of the Inception score (Salimans et al., arXiv 1606.03498).

    batches: logits [n, classes] of `count` samples in their order. torch-fidelity shuffles the samples with a fixed
    seed and cuts them into splits; here each sample knows its split beforehand. Per split the score needs the sum of
    p and of p log p: the mean of KL(p | q) is the mean of sum p log p minus sum q log q, where q is the mean of p.
    """
    order = np.random.RandomState(DEFAULTS["rng_seed"]).permutation(count)
    split_of = torch.empty(count, dtype=torch.long)
    for split in range(splits):
        split_of[order[split * count // splits : (split + 1) * count // splits]] = split
    sizes = torch.bincount(split_of, minlength=splits).double()

    p_log_p = torch.zeros(splits, dtype=torch.double)
    q: Tensor | None = None
    start = 0
    for batch in batches:
        batch_splits = split_of[start : start + len(batch)]
        log_p = batch.double().log_softmax(dim=1)
        p = log_p.exp()
        if q is None:
            q = torch.zeros(splits, batch.shape[1], dtype=torch.double)
        q.index_add_(0, batch_splits, p)
        p_log_p.index_add_(0, batch_splits, (p * log_p).sum(dim=1))
        start += len(batch)
    assert q is not None
    q /= sizes[:, None]
    scores = (p_log_p / sizes - torch.special.xlogy(q, q).sum(dim=1)).exp().numpy()
    return float(scores.mean()), float(scores.std())


def divergences(batches: Callable[[], Iterable[Tensor]]) -> np.ndarray:
    """KL(p | mean p) of each sample's class probabilities p, [N]; batches() gives logits [n, classes], twice."""
    q: Tensor | None = None
    count = 0
    for batch in batches():
        p = batch.double().softmax(dim=1).sum(dim=0)
        q, count = p if q is None else q + p, count + len(batch)
    assert q is not None
    log_q = (q / count).log()
    parts = []
    for batch in batches():
        log_p = batch.double().log_softmax(dim=1)
        parts.append((log_p.exp() * (log_p - log_q)).sum(dim=1))
    return torch.cat(parts).numpy()


def gather(batches: Iterable[Tensor], rows: np.ndarray) -> Tensor:
    """The rows [k] (numbers in any order, repeated or not) of all batches [n, ...] together: [k, ...]."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    gathered: Tensor | None = None
    start = 0
    for batch in batches:
        if gathered is None:
            gathered = torch.empty(len(rows), *batch.shape[1:], dtype=batch.dtype)
        first, last = np.searchsorted(ascending, (start, start + len(batch)))
        gathered[torch.from_numpy(order[first:last])] = batch[torch.from_numpy(ascending[first:last] - start)]
        start += len(batch)
    assert gathered is not None
    return gathered


def _distances(points: Tensor, others: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances from some points at a time of [n, D] to all others [m, D].

    Yields which points, and their distances [k, m], at most `block` numbers (or one row); each is overwritten by the
    next.
    """
    together = max(1, block // len(others))
    room = torch.empty(min(together, len(points)), len(others))
    for first in range(0, len(points), together):
        rows = slice(first, min(first + together, len(points)))
        distances = room[: rows.stop - first]
        for start in range(0, len(others), CDIST_COLUMNS):
            columns = slice(start, start + CDIST_COLUMNS)
            distances[:, columns] = torch.cdist(points[rows], others[columns])
        yield rows, distances


def share_within(points: Tensor, support: Tensor, neighbors: int, block: int) -> float:
    """The share of points [n, D] inside the manifold of support [m, D] (Kynkaanniemi et al., arXiv 1904.06991).

    A point is inside if it is within the distance of any support point to that one's neighbour number `neighbors`
    (itself not counted). Generated points in the real support: precision; real ones in the generated support: recall.
    """
    # results go to one tensor each: small ones made between large ones would leave holes all over the heap
    radii, inside = torch.empty(len(support)), torch.empty(len(points))
    for rows, distances in _distances(support, support, block):
        distances.numpy().partition(neighbors, axis=1)  # in place; the nearest, number 0, is the point itself
        radii[rows] = distances[:, neighbors]
    for rows, distances in _distances(points, support, block):
        inside[rows] = (distances <= radii).any(dim=1).float()
    return inside.mean().item()
