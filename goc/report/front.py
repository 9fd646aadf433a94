"""Which rows stand out: those that no other beats in both cost and quality, and the first ones where not all fit."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from goc.report.columns import lower_is_better
from goc.report.frame import MEASUREMENT, is_uncached


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
    for own in frame.groupby(MEASUREMENT, sort=False, dropna=False).indices.values():
        rows = frame.iloc[own]
        known = next((column for column in qualities if rows[column].notna().any()), qualities[0])
        values = rows[known].to_numpy(float)
        front = pareto(rows["evaluations"].to_numpy(float), values, lower_is_better(known))
        worse = values if lower_is_better(known) else -values
        order = np.lexsort((worse, ~front, ~is_uncached(rows).to_numpy()))
        ranks[own[order]] = np.arange(len(rows))
    return np.argsort(ranks, kind="stable")


def foremost(frame: pd.DataFrame, most: int, qualities: Sequence[str]) -> np.ndarray:
    """Positions of the rows to show where not more than `most` fit, in their order: all, or the first `ranked` ones."""
    return np.arange(len(frame)) if len(frame) <= most else np.sort(ranked(frame, qualities)[:most])
