"""report.html: one file without network in which finished runs can be plotted, sorted, compared and looked at.

The page itself (layout and script) is goc/assets/report/report.html, a Jinja template that escapes all text it is
given; this module gathers what it shows. Its plot is drawn by Vega-Lite (`goc.report.vega`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from goc.report import cells
from goc.report.frame import full_evaluations, is_uncached, speedup
from goc.report.pairs import Point, target_of
from goc.report.plots import pareto
from goc.report.tables import measurements
from goc.report.thumbnails import Pixels, Strip, amplified_difference, strips
from goc.report.vega import library, marks, tradeoff_spec
from goc.system.files import resolve, write_text

TEMPLATE = "asset:report/report.html"
WIDE = 4.0  # ratio of the largest to the smallest number from which an axis is logarithmic


def write_html(
    frame: pd.DataFrame,
    images: Sequence[Pixels | None],
    points: Sequence[Point],
    failures: Sequence[tuple[str, str]],
    path: Path,
) -> None:
    """Write the page for the rows of a table.

    frame: `goc.report.frame.over_seeds` with a column `series`, the name of the line a row belongs to. Numbers that are
    not finite count as not measured.
    images: for each row, the first samples as uint8 [n, C, H, W], C = 1 or 3, or None; rows of one measurement must
    show the same seeds. Up to 8 are shown.
    points: the runs of each row, for the differences in pairs and the worst samples.
    failures: (run, reason) of each run that did not finish.
    Raises ValueError if there is not one entry of `images` and of `points` for each row.
    """
    if not len(frame) == len(images) == len(points):
        raise ValueError(f"{len(frame)} rows, {len(images)} entries of images, {len(points)} points")
    rows = frame.assign(place=range(len(frame)))
    groups = [(name, group.assign(speedup=speedup(group))) for name, group in measurements(rows)]
    data = [_data(group, [points[place] for place in group["place"]]) for _, group in groups]
    pictures = strips(_pictures([group for _, group in groups], images))
    page = _template().render(
        groups=[_group(name, group, points, pictures) for name, group in groups],
        pictures=pictures,
        failures=failures,
        rows=len(frame),
        data=_script_json(data),
        library=Markup(library()),
    )
    write_text(path, page)


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(resolve(TEMPLATE).read_text(encoding="utf-8"))


def _script_json(value: Any) -> Markup:
    """ASCII JSON that no HTML parser can take for the end of the script element it stands in."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


# ---------------------------------------------------------------- what the script gets


def _data(rows: pd.DataFrame, points: Sequence[Point]) -> dict[str, Any]:
    """One measurement: its plot, the choices of its axes, its rows, and every pair's differences."""
    qualities, costs = cells.known(rows, cells.QUALITIES), cells.known(rows, cells.COSTS)
    compared = cells.compared(rows)
    told = [*costs, *qualities]
    tooltip = {"series": "series", "solver": "sampler"} | {column: cells.TITLES[column][0] for column in told}
    return {
        "spec": tradeoff_spec(rows),
        "tooltip": [{"field": column, "title": title, "type": "nominal"} for column, title in tooltip.items()],
        "aside": [column for column in told if column in cells.ASIDE],
        "qualities": {column: _axis(rows, column, "better") for column in qualities},
        "costs": {column: _axis(rows, column, "cheaper") for column in costs},
        "rows": [
            {
                "name": _name(row),
                "uncached": bool(row["cached"] == 0),
                "values": {column: cells.value_of(row, column) for column in told},
                "errors": {column: cells.error_of(row, column) for column in told},
                "mark": mark,
                "texts": {"series": str(row["series"]), "solver": row["solver"]}
                | {column: cells.cell(row, column) for column in told},
            }
            for (_, row), mark in zip(rows.iterrows(), marks(rows), strict=True)
        ],
        "fronts": {quality: {cost: _front(rows, cost, quality) for cost in costs} for quality in qualities},
        "baseline": _longest(rows),
        "compared": {column: [*cells.TITLES[column], cells.lower_is_better(column)] for column in compared},
        "differences": cells.paired(points, compared),
    }


def _axis(rows: pd.DataFrame, column: str, praise: str) -> dict[str, Any]:
    """The name of an axis, the direction in which better (or cheaper) is, and whether it is logarithmic."""
    _, title = cells.TITLES[column]
    if column == "speedup":
        title += f" over {full_evaluations(rows).max():.0f} uncached evaluations"
    values = np.array([value for _, row in rows.iterrows() if (value := cells.value_of(row, column)) is not None])
    less = "fewer" if column in ("evaluations", "gmacs") else "lower"
    direction = less if cells.lower_is_better(column) else "more" if praise == "cheaper" else "higher"
    return {
        "name": title,
        "direction": f"({direction} is {praise})",
        "log": bool(values.min() > 0 and values.max() > WIDE * values.min()),
    }


def _front(rows: pd.DataFrame, cost: str, quality: str) -> list[int]:
    """Positions of the rows that no other row beats in both."""
    spent = rows[cost].to_numpy(float) * (1 if cells.lower_is_better(cost) else -1)
    front = pareto(spent, rows[quality].to_numpy(float), cells.lower_is_better(quality))
    return [int(position) for position in np.flatnonzero(front)]


def _longest(rows: pd.DataFrame) -> int:
    """Position of the row to compare with first: the uncached one of most evaluations."""
    return int(np.argmax(rows["evaluations"].where(is_uncached(rows), -1).to_numpy(float)))


# ---------------------------------------------------------------- what the template gets


def _name(row: pd.Series) -> str:
    """A row for people: its line, and what tells it from the others on it."""
    evaluations = cells.value_of(row, "evaluations")
    solver = "" if row["solver"] in str(row["series"]) else f", {row['solver']}"
    return f"{row['series']}{solver}" + ("" if evaluations is None else f", {evaluations:.4g} evaluations")


def _pictures(groups: Sequence[pd.DataFrame], images: Sequence[Pixels | None]) -> dict[str, Pixels]:
    """All pictures of the page by name: rN the samples of row N, dN their difference to its uncached run's."""
    found = {f"r{place}": samples for place, samples in enumerate(images) if samples is not None and len(samples)}
    for rows in groups:
        for position, place in enumerate(rows["place"]):
            own, target = found.get(f"r{place}"), found.get(f"r{_target(rows, position)}")
            if own is not None and target is not None and own.shape[1:] == target.shape[1:]:
                found[f"d{place}"] = amplified_difference(own, target)
    return found


def _target(rows: pd.DataFrame, position: int) -> int | None:
    """Place of the uncached row of the same solver; None for that row itself, or if there is none."""
    target = target_of(rows, position)
    return None if target is None else int(rows["place"].iloc[target])


def _group(name: str, rows: pd.DataFrame, points: Sequence[Point], pictures: dict[str, Strip]) -> dict[str, Any]:
    """What the template shows of one measurement."""
    columns = cells.known(rows, tuple(cells.TITLES))
    own = [points[place] for place in rows["place"]]
    return {
        "name": name,
        "columns": [(column, *cells.TITLES[column], _arrow(column)) for column in columns],
        "settings": [
            column for column in cells.SETTINGS if any(cells.setting(row, column) for _, row in rows.iterrows())
        ],
        "rows": [_row(rows, position, points, columns, pictures) for position in range(len(rows))],
        "pictured": _picture_order(rows),
        "several_seeds": "," in str(rows["seed"].iloc[0]),
        "missing": sorted({point.missing for point in own if point.missing}),
    }


def _arrow(column: str) -> str:
    return "↓" if cells.lower_is_better(column) else "↑"


def _picture_order(rows: pd.DataFrame) -> list[int]:
    """Positions of the rows with each uncached one followed by the caches on its solver, longest first."""
    order = rows.reset_index(drop=True).sort_values(["steps", "solver", "cached"], ascending=[False, True, True])
    return list(map(int, order.index))


def _row(
    rows: pd.DataFrame, position: int, points: Sequence[Point], columns: list[str], pictures: dict[str, Strip]
) -> dict[str, Any]:
    """A row of the table with its strip of steps, its pictures and its worst samples."""
    row = rows.iloc[position]
    place, target = int(row["place"]), _target(rows, position)
    uncached = bool(row["cached"] == 0)
    return {
        "name": _name(row),
        "series": str(row["series"]),
        "solver": row["solver"],
        "uncached": uncached,
        "steps": cells.computed_steps(row),
        "cells": [(cells.value_of(row, column), cells.cell(row, column)) for column in columns],
        "settings": {column: cells.setting(row, column) for column in cells.SETTINGS},
        "quality": next((f"{cells.TITLES[column][0]} {text}" for column in cells.QUALITIES
                         if (text := cells.cell(row, column))), ""),
        "pictures": f"r{place}" if f"r{place}" in pictures else None,
        "difference": f"d{place}" if f"d{place}" in pictures else None,
        "target": f"r{target}" if f"r{target}" in pictures else None,
        "worst": [] if uncached else cells.worst_samples(points[place]),
    }  # fmt: skip
