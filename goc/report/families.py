"""Models that differ in their training seed alone: every way as a mean over them, beside each one's own number."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from goc.report.frame import is_uncached, method_names
from goc.report.pairs import DECIDED, Point, difference
from goc.report.tables import same_cost, signed, with_error
from goc.report.text import markdown_cell, number

QUALITIES = {
    "fid": "FID",
    "fd_dinov2": "FD-DINOv2",
    "fd_second": "FD-second",
    "converged": "to converged",
    "relative_l2_mean": "to target",
    "drift": "drift",
}
PAIRED = ("fid", "fd_dinov2", "fd_second", "converged")  # also as differences to the best row of as many evaluations
CONDITIONS = ["family", "cfg_scale", "samples", "seed"]  # that the models of a table were measured under


def families(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each family of several models under its name, as far as a way was run on all of them.

    frame: `goc.report.frame.over_seeds`.
    """
    groups = []
    for key, rows in frame[frame["family"].notna()].groupby(CONDITIONS, sort=False, dropna=False):
        models = sorted(rows["model"].unique())
        if len(models) < 2:
            continue
        models_of_way = rows.groupby("way")["model"]
        # once on each: a model of two measurements would be two of them
        everywhere = (models_of_way.transform("nunique") == len(models)) & (
            models_of_way.transform("size") == len(models)
        )
        if not everywhere.any():
            continue
        family, cfg_scale, samples, seed = key
        name = f"{family}: mean over {len(models)} models ({', '.join(models)}), guidance {cfg_scale}, "
        groups.append((f"{name}{samples} samples, seed {seed}", rows[everywhere]))
    return groups


def spread(values: Sequence[float]) -> str:
    """The mean of some numbers and their standard deviation, "2.36 ± 0.12"; empty where one is missing."""
    return "" if any(map(math.isnan, values)) else number(float(np.mean(values)), float(np.std(values, ddof=1)))


def pooled(points: Sequence[Point], others: Sequence[Point], column: str) -> str:
    """The mean over models of a column's differences in pairs, with its error: the first's less the second's.

    "tie" where it is at most two errors; where the models do not agree in its sign, how many do.
    """
    deltas = [difference(a, b, column) for a, b in zip(points, others, strict=True)]
    values = [delta.value for delta in deltas if delta is not None]
    errors = [delta.error for delta in deltas if delta is not None and delta.error is not None]
    if len(errors) < len(deltas):
        return ""
    mean, error = float(np.mean(values)), math.sqrt(sum(error**2 for error in errors)) / len(errors)
    if abs(mean) <= DECIDED * error:
        return "tie"
    agreeing = sum(value * mean > 0 for value in values)
    return signed(with_error(mean, error)) + ("" if agreeing == len(values) else f" ({agreeing} of {len(values)})")


def family_table(rows: pd.DataFrame, points: Sequence[Point]) -> pd.DataFrame:
    """One row a way: its numbers' means over the models with their spread, each model's own, and differences in pairs.

    rows: of one family, one a model and way; points: their runs.
    """
    rows = rows.assign(place=range(len(rows)), name=method_names(rows).where(~is_uncached(rows), "no cache"))
    rows = rows.sort_values(["evaluations", "name", "solver", "way", "model"], kind="stable")
    ways = [group for _, group in rows.groupby("way", sort=False)]
    frame = pd.DataFrame([group.iloc[0] for group in ways]).reset_index(drop=True)
    cells = pd.DataFrame({"method": frame["name"], "steps": frame["solver"]})
    cells["evaluations"] = frame["evaluations"].map("{:.4g}".format)
    for column, title in QUALITIES.items():
        numbers = [group[column].astype(float).tolist() for group in ways]
        if all(math.isnan(value) for values in numbers for value in values):
            continue
        cells[title] = [spread(values) for values in numbers]
        if column in PAIRED:
            cells[f"{title}, to best"] = to_best(frame, ways, points, column)
        cells[f"{title} of each"] = [
            "" if any(map(math.isnan, values)) else ", ".join(f"{value:.3g}" for value in values) for values in numbers
        ]
    return cells


def to_best(frame: pd.DataFrame, ways: Sequence[pd.DataFrame], points: Sequence[Point], column: str) -> list[str]:
    """Each way's pooled difference to the one of the lowest mean among those of about as many evaluations."""
    means = np.array([group[column].astype(float).mean() for group in ways])
    of_way = [[points[place] for place in group["place"]] for group in ways]
    texts = [""] * len(ways)
    for positions in same_cost(frame):
        known = [position for position in positions if not math.isnan(means[position])]
        if len(known) < 2:
            continue
        best = min(known, key=lambda position: means[position])
        for position in known:
            texts[position] = "best" if position == best else pooled(of_way[position], of_way[best], column)
    return texts


def markdown(frame: pd.DataFrame, points: Sequence[Point]) -> str:
    """The table of every family; empty if there is none. Arguments as of `goc.report.tables.markdown`."""
    by_index = dict(zip(frame.index, points, strict=True))
    parts = []
    for name, rows in families(frame):
        table = family_table(rows, [by_index[index] for index in rows.index])
        parts += [f"## {markdown_cell(name)}", table.map(markdown_cell).to_markdown(index=False, disable_numparse=True)]
        parts.append(
            "- ± is the standard deviation over models. Differences are in pairs, to the row of the lowest mean among "
            "those of as many evaluations: means over the models with their paired errors; a tie is at most two."
        )
    return "\n\n".join(parts) + "\n" if parts else ""
