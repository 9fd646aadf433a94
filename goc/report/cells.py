"""What the tables of report.html say: numbers with errors, differences in pairs, worst samples, computed steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from goc.report.columns import QUARTILES, columns, lower_is_better, on_page, qualities
from goc.report.pairs import Point, difference
from goc.report.text import number

COSTS = ("evaluations", "gmacs", "speedup")  # to choose from in the plot
SETTINGS = ("gradient_weights", "inflection_threshold", "uncorrected_steps", "amplification")  # shown as they are
MOST_STEPS = 10_000  # of which the page draws which are computed
WORST = 5  # samples of each row
PAIRS = 5000  # differences of a column in the page: all of 100 rows, or those of more rows to a few of them
LEAST_BASELINES = 3


def known(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns in which some row has a finite number."""
    return [column for column in columns if column in rows and np.isfinite(rows[column].astype(float)).any()]


def value_of(row: Mapping[Any, Any], column: str) -> float | None:
    """A row's number; None if it was not measured, or is not finite."""
    value = row.get(column)
    return None if value is None or pd.isna(value) or not math.isfinite(value) else float(value)


def error_of(row: Mapping[Any, Any], column: str) -> float | None:
    """Its standard error, or its spread over seeds where that is all there is; None if neither is known."""
    errors = (value_of(row, f"{column}_se"), value_of(row, f"{column}_spread"))
    return next((error for error in errors if error), None)


def cell(row: Mapping[Any, Any], column: str) -> str:
    """The text of a number in the table; empty if it was not measured."""
    value = value_of(row, column)
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if on_page()[column].percent else number(value, error_of(row, column))


def quartiles(row: Mapping[Any, Any]) -> dict[str, Any] | None:
    """How what is cached differs between samples: its least, quartiles and largest, and in words; None: it does not."""
    values = [value_of(row, f"cached_{name}") for name in QUARTILES]
    if None in values:
        return None
    least, lower, median, upper, most = (f"{100 * value:.0f}" for value in values if value is not None)
    words = f"cached: {least} to {most} % of a sample, median {median} %, the middle half {lower} to {upper} %"
    return {"values": values, "words": words}


def setting(row: Mapping[Any, Any], column: str) -> str:
    """The text of a setting: lists and numbers as they are, nothing if there is none."""
    value = row.get(column)
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(map(str, value))
    return "" if value is None or pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value)


def differences(
    points: Sequence[Point], columns: Sequence[str], baselines: Sequence[int] | None
) -> dict[str, list[list[list[Any] | None]]]:
    """For each column, baseline by baseline, the differences of all rows to it: [value, error, decided], or None.

    Without baselines row by row, those to the rows before it; to the rows after it they are the same with the other
    sign.
    """
    if baselines is None:
        pairs = [[(point, other) for other in points[:position]] for position, point in enumerate(points)]
    else:
        pairs = [[(point, points[baseline]) for point in points] for baseline in baselines]
    return {column: [[_difference(*pair, column) for pair in row] for row in pairs] for column in columns}


def baselines(rows: pd.DataFrame) -> list[int] | None:
    """Positions of the rows to which the page has differences; None: to all, as they are few enough.

    Uncached ones, the longest first, and then the best in each quality.
    """
    if len(rows) * (len(rows) - 1) // 2 <= PAIRS:
        return None
    evaluations = rows["evaluations"].to_numpy(float)
    uncached = [int(place) for place in np.argsort(-evaluations, kind="stable") if rows["cached"].iloc[place] == 0]
    best = [
        int(np.nanargmin(values if lower_is_better(column) else -values))
        for column in known(rows, qualities())
        if not np.isnan(values := rows[column].to_numpy(float)).all()
    ]
    most = max(LEAST_BASELINES, PAIRS // len(rows))
    half = uncached[: most - min(len(set(best)), most // 2)]
    return list(dict.fromkeys([*half, *best]))[:most]


def _difference(point: Point, other: Point, column: str) -> list[Any] | None:
    delta = None if point is other else difference(point, other, column)
    if delta is None or not math.isfinite(delta.value):
        return None
    error = delta.error if delta.error is not None and math.isfinite(delta.error) else None
    return [_short(delta.value), None if error is None else _short(error), delta.decided]


def _short(value: float) -> float:
    """Seven digits: more than are shown, and half the characters."""
    return float(f"{value:.7g}")


def compared(rows: pd.DataFrame) -> list[str]:
    """The columns with errors in which some row has a number, in the order of the table."""
    return known(rows, [column for column in qualities() if columns()[column].error])


def worst_samples(point: Point) -> list[dict[str, Any]]:
    """The samples of a point farthest from the uncached run's: their seed, index and relative L2, the worst first.

    `kept`: whether they are of the seed whose images stand for the point.
    """
    worst = [
        (float(values[index]), seed, int(index))
        for seed, influence in point.influence.items()
        if (values := influence.get("relative_l2")) is not None
        for index in np.argsort(-values, kind="stable")[:WORST]  # not a number is the last
        if not np.isnan(values[index])
    ]
    first = min(point.folders, default=None)
    return [
        {"seed": seed, "index": index, "value": number(value), "kept": seed == first}
        for value, seed, index in sorted(worst, key=lambda sample: -sample[0])[:WORST]
    ]


def computed_steps(row: Mapping[Any, Any]) -> list[float] | None:
    """The share of each step's cells that is computed; None where it is decided as it runs.

    A result of an older version, which did not record it, tells it where steps are cached as a whole.
    """
    shares = row.get("cached_share")
    if isinstance(shares, list) and len(shares) <= MOST_STEPS:
        return [1.0 - share for share in shares]
    cached, share = row.get("cached_steps"), value_of(row, "cached")
    if not isinstance(cached, list) or share is None:
        return None
    evaluations = value_of(row, "evaluations")
    steps = 0 if evaluations is None else min(round(evaluations / (1.0 - share)), MOST_STEPS)
    whole = steps > 0 and math.isclose(len(cached), share * steps, abs_tol=1e-6)
    return [float(step not in cached) for step in range(steps)] if whole else None
