"""Which rows stand out: those that no other beats in both cost and quality, the first ones where not all fit, and those
that lie so far off that a picture's axis ends before them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from goc.report.columns import lower_is_better, qualities
from goc.report.frame import MEASUREMENT, is_uncached

BEYOND = 3.0  # times the median, or times as far above it as the lower quartile is below it


def pareto(cost: np.ndarray, quality: np.ndarray, lower: bool) -> np.ndarray:
    """Which points no other point beats in both: bool of the inputs' shape [n]; NaN never is on the front."""
    worse = quality if lower else -quality
    known = np.flatnonzero(~(np.isnan(worse) | np.isnan(cost)))
    order = known[np.lexsort((worse[known], cost[known]))]
    front = np.zeros(len(worse), dtype=bool)
    cheaper: float | None = None  # the best of all cheaper points
    for level in np.split(order, np.flatnonzero(np.diff(cost[order])) + 1):  # of equal cost, the best first
        if len(level) and (cheaper is None or worse[level[0]] < cheaper):
            cheaper = worse[level[0]]
            front[level[worse[level] == cheaper]] = True
    return front


def ranked(frame: pd.DataFrame, qualities: Sequence[str]) -> np.ndarray:
    """Positions of all rows, those first that stand out most; measurements take turns.

    Uncached rows come first, then the front of quality against evaluations, then the best of the rest, by the first of
    the qualities that any row has.
    """
    ranks = np.zeros(len(frame), dtype=int)  # in the own measurement
    for places in frame.groupby(MEASUREMENT, sort=False, dropna=False).indices.values():
        rows = frame.iloc[places]
        known = next((column for column in qualities if rows[column].notna().any()), qualities[0])
        values = rows[known].to_numpy(float)
        front = pareto(rows["evaluations"].to_numpy(float), values, lower_is_better(known))
        worse = values if lower_is_better(known) else -values
        order = np.lexsort((worse, ~front, ~is_uncached(rows).to_numpy()))
        ranks[places[order]] = np.arange(len(rows))
    return np.argsort(ranks, kind="stable")


def foremost(frame: pd.DataFrame, most: int, qualities: Sequence[str]) -> np.ndarray:
    """Positions of the rows to show where not more than `most` fit, in their order: all, or the first `ranked` ones."""
    return np.arange(len(frame)) if len(frame) <= most else np.sort(ranked(frame, qualities)[:most])


def leading(rows: pd.DataFrame) -> str:
    """The quality of a measurement that is shown first: a distance, where it is known of all rows.

    That is the one to the converged solution; or to the uncached run, where that is the same for all rows.
    """
    distances = ["converged", *(["relative_l2_mean"] if rows["solver"].nunique() == 1 else [])]
    order = (*distances, *qualities())
    return next((column for column in order if column in rows and rows[column].notna().any()), "fid")


def beyond(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Which rows are so much worse in a quality than most that an axis that had them had no room for the others.

    bool [n]. A cache that diverges is off by a factor: more than BEYOND times the median, and in logarithms more than
    BEYOND times as far above it as the lower quartile is below it. (Both hold up to a half of diverging rows.) Never an
    uncached row, nor one that no other of at most as many evaluations beats. None where a number is not positive.
    """
    values = rows[column].to_numpy(float)
    known = values[np.isfinite(values)]
    if not len(known) or known.min() <= 0:
        return np.zeros(len(rows), dtype=bool)
    worse = np.log(values if lower_is_better(column) else 1 / values)
    lower, middle = np.percentile(worse[np.isfinite(worse)], [25, 50])
    far = worse > middle + max(BEYOND * (middle - lower), np.log(BEYOND))
    front = pareto(rows["evaluations"].to_numpy(float), values, lower_is_better(column))
    return np.asarray(far & np.isfinite(values) & ~front & ~is_uncached(rows).to_numpy())
