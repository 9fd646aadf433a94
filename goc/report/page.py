"""report.html: one file without network in which finished runs can be plotted, sorted, compared and looked at.

The page itself (layout and script) is goc/assets/report/report.html, a Jinja template that escapes all text it is
given; this module gathers what it shows. Its plot is drawn by Vega-Lite (`goc.report.vega`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from goc.report import cells, columns, opinions, published
from goc.report.frame import full_evaluations, is_uncached, speedup
from goc.report.front import beyond, foremost, leading, pareto
from goc.report.pairs import Point, damaged, targets
from goc.report.tables import measurements
from goc.report.text import number
from goc.report.thumbnails import Pixels, Strip, amplified_difference, strips
from goc.report.vega import LIGHT, library, marks, tradeoff_spec
from goc.system.files import resolve, write_text

TEMPLATE = "asset:report/report.html"
ROWS = 1000  # of a page, over all of its measurements
PICTURED = 100  # rows whose samples are shown
SKIPPED = 200  # folders that are named
WIDE = 4.0  # ratio of the largest to the smallest number from which an axis is logarithmic


def write_html(
    frame: pd.DataFrame,
    images: Sequence[Pixels | None],
    points: Sequence[Point],
    failures: Sequence[tuple[str, str]],
    path: Path,
    skipped: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page for the rows of a table; of more than ROWS rows the foremost.

    frame: `goc.report.frame.over_seeds` with a column `series`, the name of the line a row belongs to. Numbers that are
    not finite count as not measured.
    images: for each row, the first samples as uint8 [n, C, H, W], C = 1 or 3, or None; rows of one measurement must
    show the same seeds. Up to 8 are shown, of the PICTURED foremost rows. They may be read when they are asked for.
    points: the runs of each row, for the differences in pairs and the worst samples.
    failures: (run, reason) of each run that did not finish. skipped: (folder, why) of what is not in the table.
    Raises ValueError if there is not one entry of `images` and of `points` for each row.
    """
    if not len(frame) == len(images) == len(points):
        raise ValueError(f"{len(frame)} rows, {len(images)} entries of images, {len(points)} points")
    frame = frame.assign(place=range(len(frame)))
    shown, pictured = (foremost(frame, most, columns.qualities()) for most in (ROWS, PICTURED))
    groups = []
    for name, every in measurements(frame):
        every = every.assign(speedup=speedup(every))
        rows = every[every["place"].isin(shown)]
        if len(rows):
            groups.append((name, every, rows, [points[place] for place in rows["place"]]))
    data = [_data(every, rows, row_points) for _, every, rows, row_points in groups]
    pictures = strips(Pictures([rows for _, _, rows, _ in groups], images, set(pictured.tolist())))
    skipped = list(dict.fromkeys((*skipped, *damaged(points))))  # also what has shown only now, in pairs
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(resolve(TEMPLATE).read_text(encoding="utf-8")).render(
        groups=[_group(name, rows, row_points, pictures) for name, _, rows, row_points in groups],
        pictures=pictures,
        pictured=len(pictured),
        failures=failures,
        skipped=skipped[:SKIPPED],
        skipped_count=len(skipped),
        verdicts=published.VERDICTS,
        rows=len(frame),
        shown=len(shown),
        data=_script_json(data),
        library=Markup(library()),
    )
    write_text(path, page)


def _script_json(value: Any) -> Markup:
    """ASCII JSON that no HTML parser can take for the end of the script element it stands in."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


# ---------------------------------------------------------------- what the script gets


def _data(every: pd.DataFrame, rows: pd.DataFrame, points: Sequence[Point]) -> dict[str, Any]:
    """One measurement: its plot, the choices of its axes, its rows, and their differences.

    every: all rows of the measurement, of which no more than `rows` may be shown.
    """
    qualities, costs = cells.known(rows, columns.qualities()), cells.known(rows, cells.COSTS)
    compared, baselines = cells.compared(rows), cells.baselines(rows)
    told, beside = [*costs, *qualities], published.laid_beside(rows)
    first = leading(rows)
    qualities.sort(key=lambda column: column != first)  # which the page shows first
    tooltip = {"series": "series", "solver": "sampler"} | {column: columns.titles(column)[0] for column in told}
    return {
        "spec": tradeoff_spec(rows),
        "tooltip": [{"field": column, "title": title, "type": "nominal"} for column, title in tooltip.items()],
        "aside": [column for column in told if columns.on_page()[column].aside],
        "qualities": {
            column: _axis(rows, column, [row.numbers.get(column) for row in beside], beyond(rows, column))
            for column in qualities
        },
        "costs": {column: _axis(rows, column, [row.cost(column) for row in beside]) for column in costs},
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
            for row, mark in zip(rows.to_dict("records"), marks(rows), strict=True)
        ],
        "published": [_published(row, told) for row in beside],
        "fronts": {quality: {cost: _front(every, rows, cost, quality) for cost in costs} for quality in qualities},
        "baseline": _longest(rows) if baselines is None else baselines[0],
        "baselines": baselines,
        "compared": {column: [*columns.titles(column), columns.lower_is_better(column)] for column in compared},
        "differences": cells.differences(points, compared, baselines),
    }


def _axis(
    rows: pd.DataFrame, column: str, others: Sequence[float | None], far: np.ndarray | None = None
) -> dict[str, Any]:
    """The name of an axis, in which direction better (or cheaper) is, whether it is logarithmic, and what is beyond it.

    others: numbers that are drawn beside those of the rows. far: bool [n], rows before which the axis ends.
    """
    far = np.zeros(len(rows), dtype=bool) if far is None else far
    _, title = columns.titles(column)
    if column == "speedup":
        title += f" over {full_evaluations(rows).max():.0f} uncached evaluations"
    values = np.array([*rows[column][~far], *others], dtype=float)
    values = values[np.isfinite(values)]
    less, more, praise = ("fewer", "more", "cheaper") if column in cells.COSTS else ("lower", "higher", "better")
    return {
        "name": title,
        "direction": f"({less if columns.lower_is_better(column) else more} is {praise})",
        "log": bool(values.min() > 0 and values.max() > WIDE * values.min()),
        "lower": columns.lower_is_better(column),
        "beyond": [int(place) for place in np.flatnonzero(far)],
    }


def _published(row: published.Published, told: Sequence[str]) -> dict[str, Any]:
    """A published row as a point of the plot."""
    values = {column: row.numbers.get(column, row.cost(column)) for column in told}
    numbers = ", ".join(f"{columns.titles(name)[0]} {value:g}" for name, value in row.numbers.items())
    text = f"{row.name}: {numbers}; {row.samples:,} samples; {row.source}, read {published.CHECKED[row.checked]}"
    return {"values": values, "text": text, "fill": LIGHT if row.is_first_hand else "transparent"}


def _front(every: pd.DataFrame, rows: pd.DataFrame, cost: str, quality: str) -> list[int]:
    """Positions in `rows` of those that none of all rows beats in both."""
    spent = every[cost].to_numpy(float) * (1 if columns.lower_is_better(cost) else -1)
    front = pareto(spent, every[quality].to_numpy(float), columns.lower_is_better(quality))
    return [int(position) for position in np.flatnonzero(rows.index.isin(every.index[front]))]


def _longest(rows: pd.DataFrame) -> int:
    """Position of the row to compare with first: the uncached one of most evaluations."""
    return int(np.argmax(rows["evaluations"].where(is_uncached(rows), -1).to_numpy(float)))


# ---------------------------------------------------------------- what the template gets


def _name(row: Mapping[Any, Any]) -> str:
    """A row for people: its line, and what tells it from the others on it."""
    evaluations = cells.value_of(row, "evaluations")
    solver = "" if row["solver"] in str(row["series"]) else f", {row['solver']}"
    return f"{row['series']}{solver}" + ("" if evaluations is None else f", {evaluations:.4g} evaluations")


class Pictures(Mapping[str, Pixels]):
    """All pictures of the page by name: rN the samples of row N, dN their difference to its uncached run's.

    They are read when they are asked for, so that one is in memory at a time. rows: places whose pictures are wanted.
    """

    def __init__(self, groups: Sequence[pd.DataFrame], images: Sequence[Pixels | None], rows: set[int]) -> None:
        self.images = images
        shapes = {
            place: pixels.shape for place in sorted(rows) if (pixels := images[place]) is not None and len(pixels)
        }
        self.made: dict[str, tuple[int, ...]] = {f"r{place}": (place,) for place in shapes}
        for group in groups:
            places = group["place"].to_list()
            for place, target in zip(places, targets(group), strict=True):
                other = None if target is None else places[target]
                if place in shapes and other in shapes and shapes[place][1:] == shapes[other][1:]:
                    self.made[f"d{place}"] = (place, other)

    def __getitem__(self, name: str) -> Pixels:
        pictures = [pixels for place in self.made[name] if (pixels := self.images[place]) is not None]
        return pictures[0] if len(pictures) == 1 else amplified_difference(*pictures)

    def __iter__(self) -> Iterator[str]:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)


def _group(name: str, rows: pd.DataFrame, points: Sequence[Point], pictures: Mapping[str, Strip]) -> dict[str, Any]:
    """What the template shows of one measurement."""
    shown = cells.known(rows, tuple(columns.on_page()))
    records, of_target = rows.to_dict("records"), targets(rows)
    otherwise = opinions.disagreements(rows, points)
    marked = opinions.flagged(otherwise)
    baselines = cells.baselines(rows)
    return {
        "name": name,
        "columns": [(name, *columns.titles(name), "↓" if columns.lower_is_better(name) else "↑") for name in shown],
        "settings": [column for column in cells.SETTINGS if any(cells.setting(row, column) for row in records)],
        "rows": [
            _row(row, None if target is None else records[target], point, shown, pictures, position in marked)
            for position, (row, target, point) in enumerate(zip(records, of_target, points, strict=True))
        ],
        "pictured": _picture_order(rows),
        "opinions": opinions.note(rows, otherwise),
        "several_seeds": "," in str(rows["seed"].iloc[0]),
        "missing": sorted({point.missing for point in points if point.missing}),
        "baselines": None if baselines is None else len(baselines),
        "published": published.beside(rows, number).to_dict("records"),
        "beside": bool(published.laid_beside(rows)),
    }


def _picture_order(rows: pd.DataFrame) -> list[int]:
    """Positions of the rows with each uncached one followed by the caches on its solver, longest first."""
    order = rows.reset_index(drop=True).sort_values(["steps", "solver", "cached"], ascending=[False, True, True])
    return list(map(int, order.index))


def _row(
    row: Mapping[Any, Any],
    target: Mapping[Any, Any] | None,
    point: Point,
    shown: list[str],
    pictures: Mapping[str, Strip],
    marked: bool,
) -> dict[str, Any]:
    """A row of the table with its strip of steps, its pictures and its worst samples.

    target: its uncached row. marked: whether the second distance is, as it orders the row otherwise than FID.
    """
    uncached = bool(row["cached"] == 0)
    strip, difference = f"r{row['place']}", f"d{row['place']}"
    of_target = None if target is None else f"r{target['place']}"

    def shown_text(column: str) -> str:
        mark = f" {opinions.MARK}" if marked and column in opinions.SECOND else ""
        return cells.cell(row, column) + mark

    return {
        "name": _name(row),
        "series": str(row["series"]),
        "solver": row["solver"],
        "uncached": uncached,
        "steps": cells.computed_steps(row),
        "quartiles": cells.quartiles(row),
        "cells": [(cells.value_of(row, column), shown_text(column)) for column in shown],
        "settings": {column: cells.setting(row, column) for column in cells.SETTINGS},
        "quality": next((f"{columns.titles(column)[0]} {text}" for column in columns.qualities()
                         if (text := cells.cell(row, column))), ""),
        "pictures": strip if strip in pictures else None,
        "difference": difference if difference in pictures else None,
        "target": of_target if of_target in pictures else None,
        "worst": [] if uncached else cells.worst_samples(point),
    }  # fmt: skip
