"""Runs of the same seeds compared in pairs: the error of a difference is far smaller than that of either number."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from goc.metrics.errors import paired_error
from goc.report.columns import columns
from goc.report.frame import is_uncached, row_of
from goc.report.results import INFLUENCE_FILE, Influence
from goc.report.text import printable

DECIDED = 2.0  # paired errors between two runs, from which on one of them is better


@dataclass
class Point:
    """The runs of one point: by seed, each one's row of the table, and what each sample contributes to its numbers."""

    folders: dict[int, Path] = field(default_factory=dict)
    rows: dict[int, Mapping[Any, Any]] = field(default_factory=dict)
    influence: dict[int, Mapping[str, np.ndarray]] = field(default_factory=dict)
    missing: str = ""  # why a run has no influences
    damaged: list[tuple[str, str]] = field(default_factory=list)  # (folder, why) where that is a fault of its file

    def contribution(self, seed: int, name: str) -> np.ndarray | None:
        """What each sample of a seed contributes to a number, [N]; None if that is not known, or not finite."""
        values = self.influence.get(seed, {}).get(name)
        if values is None or np.isfinite(values).all():
            return values
        fault = f"{INFLUENCE_FILE} is not finite in {printable(name)}"
        self.missing = f"{fault}; run its command again"
        told = (printable(str(self.folders[seed])), f"{fault}: no paired errors")
        if told not in self.damaged:
            self.damaged.append(told)
        return None

    @property
    def compared(self) -> Any:
        """How many samples of each of its runs were compared with uncached ones."""
        return next(iter(self.rows.values())).get("compared")

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
        row = row_of(result)
        point, seed = points.setdefault((row["measurement"], row["point"]), Point()), int(row["seed"] or 0)
        point.folders[seed], point.rows[seed] = folder, row
        try:
            point.influence[seed] = Influence(folder, result)
        except ValueError as error:
            unpaired = not (result.get("elsewhere") or {}).get("paired", True)
            point.missing = "its images are not paired with others" if unpaired else f"{error}; run its command again"
            if os.path.lexists(folder / INFLUENCE_FILE):
                point.damaged.append((printable(str(folder)), f"{error}: no paired errors"))
    return points


def damaged(points: Sequence[Point]) -> list[tuple[str, str]]:
    """(folder, why) of all influences that are damaged, as far as they were asked for."""
    return [why for point in points for why in point.damaged]


def difference(point: Point, other: Point, column: str) -> Difference | None:
    """A column of one point less that of another; None if they have no seed in common in which both know it.

    Distances to the uncached run are differences only between runs that have the same one, and biased ones between runs
    of as many compared samples. The error is the paired one, where samples' contributions are known; else that of two
    independent numbers.
    """
    kind = columns()[column]
    if (kind.to_target and point.solver != other.solver) or (kind.biased and point.compared != other.compared):
        return None
    known = [
        seed for seed in point.rows.keys() & other.rows.keys()
        if not (pd.isna(point.rows[seed][column]) or pd.isna(other.rows[seed][column]))
    ]  # fmt: skip
    if not known:
        return None
    value = float(np.mean([point.rows[seed][column] - other.rows[seed][column] for seed in known]))
    name = kind.contribution or ""
    both = [(point.contribution(seed, name), other.contribution(seed, name)) for seed in known]
    pairs = [(a, b) for a, b in both if a is not None and b is not None and a.shape == b.shape]
    if len(pairs) == len(known):
        return Difference(value, paired_error(pairs))
    errors = [one.rows[seed].get(f"{column}_se") for seed in known for one in (point, other)]
    if not kind.error or any(pd.isna(error) for error in errors):
        return Difference(value, None)
    return Difference(value, math.sqrt(sum(float(error) ** 2 for error in errors if error is not None)) / len(known))


def best_of(frame: pd.DataFrame, points: Sequence[Point], column: str, lower: bool) -> int | None:
    """Position of the row that is better than every other by more than two errors of the difference; None: a tie."""
    values = frame[column].astype(float).to_numpy()
    order = [int(position) for position in np.argsort(values if lower else -values) if not math.isnan(values[position])]
    if len(order) < 2:
        return None
    first, *rivals = order
    deltas = (difference(points[first], points[rival], column) for rival in rivals)
    return first if all(delta is not None and delta.decided for delta in deltas) else None


def targets(frame: pd.DataFrame) -> list[int | None]:
    """For each row the position of the uncached row of the same solver; None for such rows, or if there is none."""
    uncached, solvers = is_uncached(frame).to_numpy(), frame["solver"].to_list()
    first = {solvers[position]: int(position) for position in np.flatnonzero(uncached)[::-1]}
    return [None if full else first.get(solver) for full, solver in zip(uncached, solvers, strict=True)]
