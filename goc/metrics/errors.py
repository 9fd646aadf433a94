"""Standard errors of numbers over samples, and of the difference of two runs of the same seeds."""

import math
from collections.abc import Iterable

import numpy as np


def standard_error(influence: np.ndarray) -> float:
    """Standard error of the metric that samples have this influence on, [N]."""
    return float(np.std(influence) / math.sqrt(len(influence)))


def paired_error(influences: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Standard error of the difference of two runs of the same seeds, meaned over the seeds that both have.

    influences: for each seed those of the one and the other, [N] each.
    """
    errors = [standard_error(np.asarray(one, dtype=float) - other) for one, other in influences]
    return math.sqrt(sum(error**2 for error in errors)) / len(errors)


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent cases."""
    return math.sqrt(share * (1 - share) / count)


def quantile_error(values: np.ndarray, quantile: float) -> float:
    """Standard error of a quantile of values [N], free of their distribution.

    Half the distance between the values one binomial standard deviation of ranks to either side.
    """
    ordered, count = np.sort(values), len(values)
    width = math.sqrt(count * quantile * (1 - quantile))
    low, high = (min(max(round(quantile * (count - 1) + side * width), 0), count - 1) for side in (-1, 1))
    return float((ordered[high] - ordered[low]) / 2)
