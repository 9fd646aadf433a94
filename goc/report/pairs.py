"""Runs of the same seeds compared in pairs: the error of a difference is far smaller than that of either number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from goc.metrics.errors import paired_error
from goc.report.frame import TO_TARGET, WITH_ERROR, is_uncached, table
from goc.report.results import read_influence

DECIDED = 2.0  # paired errors between two runs, from which on one of them is better
# columns whose number is a mean over samples, or has an influence for each: their name in the influence file
CONTRIBUTIONS = {
    "fid": "fid", "sfid": "sfid", "is": "is", "drift": "drift", "converged": "converged",
    "relative_l2_mean": "relative_l2", "psnr_image": "psnr_image", "ssim": "ssim", "lpips": "lpips",
    "clip": "clip",
}  # fmt: skip


@dataclass
class Point:
    """The runs of one point: by seed, each one's row of the table, and what each sample contributes to its numbers."""

    folders: dict[int, Path] = field(default_factory=dict)
    rows: dict[int, pd.Series] = field(default_factory=dict)
    influence: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    missing: str = ""  # why a run has no influences

    @property
    def solver(self) -> Any:
        """The sampler and its steps, which name the uncached run that a cache imitates."""
        return next(iter(self.rows.values())).get("solver")


@dataclass(frozen=True)
class Difference:
    """One number of a point less that of another, over the seeds that both have; error None: not known."""

    value: float
    error: float | None

    @property
    def decided(self) -> bool:
        """Whether the difference is more than two errors."""
        return self.error is not None and abs(self.value) > DECIDED * self.error


def points_of(runs: Sequence[tuple[Path, dict[str, Any]]]) -> dict[tuple[str, str], Point]:
    """The points of some runs, by measurement and point as in the table."""
    points: dict[tuple[str, str], Point] = {}
    for folder, result in runs:
        row = table([result]).iloc[0]
        point, seed = points.setdefault((row["measurement"], row["point"]), Point()), int(row["seed"] or 0)
        point.folders[seed], point.rows[seed] = folder, row
        try:
            point.influence[seed] = read_influence(folder, result)
        except ValueError as error:
            point.missing = str(error)
    return points


def difference(own: Point, other: Point, column: str) -> Difference | None:
    """A column of one point less that of another; None if they have no seed in common in which both know it.

    Distances to the uncached run are differences only between runs that have the same one. The error is the paired one,
    where samples' contributions are known; else that of two independent numbers.
    """
    if column in TO_TARGET and own.solver != other.solver:
        return None
    known = [
        seed for seed in own.rows.keys() & other.rows.keys()
        if not (pd.isna(own.rows[seed][column]) or pd.isna(other.rows[seed][column]))
    ]  # fmt: skip
    if not known:
        return None
    value = float(np.mean([own.rows[seed][column] - other.rows[seed][column] for seed in known]))
    name = CONTRIBUTIONS.get(column, "")
    both = [(own.influence.get(seed, {}).get(name), other.influence.get(seed, {}).get(name)) for seed in known]
    pairs = [(a, b) for a, b in both if a is not None and b is not None and a.shape == b.shape]
    if len(pairs) == len(known):
        return Difference(value, paired_error(pairs))
    errors = [point.rows[seed].get(f"{column}_se") for seed in known for point in (own, other)]
    if column not in WITH_ERROR or any(pd.isna(error) for error in errors):
        return Difference(value, None)
    return Difference(value, math.sqrt(sum(float(error) ** 2 for error in errors if error is not None)) / len(known))


def best_of(frame: pd.DataFrame, points: Sequence[Point], column: str, lower: bool) -> int | None:
    """Position of the row that is better than every other by more than two errors of the difference; None: a tie."""
    values = frame[column].astype(float).to_numpy()
    order = [int(position) for position in np.argsort(values if lower else -values) if not math.isnan(values[position])]
    if len(order) < 2:
        return None
    first, *rivals = order
    for rival in rivals:
        found = difference(points[first], points[rival], column)
        if found is None or not found.decided:
            return None
    return first


def target_of(frame: pd.DataFrame, position: int) -> int | None:
    """Position of the uncached row of the same solver; None for that row itself, or if there is none."""
    row = frame.iloc[position]
    same = is_uncached(frame) & (frame["solver"] == row["solver"])
    positions = np.flatnonzero(same.to_numpy())
    return None if len(positions) == 0 or same.iloc[position] else int(positions[0])
