"""Tables for papers: Markdown and LaTeX, errors in the field's notation, and measured numbers beside published ones."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from goc.report import opinions, published
from goc.report.columns import columns, having_error, lower_is_better, of_plugins, qualities
from goc.report.frame import MEASUREMENT, TUNED_ON, is_uncached, measurement_name, method_names
from goc.report.pairs import Difference, Point, best_of, difference, targets
from goc.report.text import decimals_of, latex_cell, markdown_cell

SHOWN = ("cached", "evaluations", "fid", *opinions.SECOND, "sfid", "is", "converged", "drift", "relative_l2_mean",
         "relative_l2_median", "psnr_image", "ssim", "lpips", "precision", "recall", "kid",
         *(f"{name}_{of}" for of in ("dinov2", "second") for name in ("precision", "recall", "kd")),
         "clip", "clip_iqa", "blip_itm", "gmacs", "latency_ratio")  # fmt: skip
DIFFERENCES = ("fid",)  # shown beside the number: to the uncached run, and to the best
NAMED = 10  # rows that a note names one by one

Form = Callable[[str], str]


def with_error(value: float, error: float | None) -> str:
    """A number in the field's notation, 2.16(23): the error in units of the last digits; four digits without one."""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.4g}"
    decimals = decimals_of(error)
    return f"{value:.{decimals}f}({round(error * 10**decimals)})"


def cell_text(row: Mapping[Any, Any], column: str) -> str:
    """A cell: the number with its error, or its spread over seeds where that is all there is; empty if not measured."""
    value, error, spread = row[column], row.get(f"{column}_se"), row.get(f"{column}_spread")
    if pd.isna(value):
        return ""
    if columns()[column].percent:
        return f"{100 * value:.1f} %"
    if error is not None and not pd.isna(error):
        return with_error(value, error)
    return f"{value:.4g}" + ("" if spread is None or pd.isna(spread) or spread == 0 else f" ± {spread:.4g}")


def signed(text: str) -> str:
    """A number as text, with its sign."""
    return text if text.startswith("-") else f"+{text}"


def differences(frame: pd.DataFrame, points: Sequence[Point], column: str) -> pd.DataFrame:
    """A column's differences with their paired errors, as text: to the uncached run of the same steps, and to the best.

    The best is the lowest (or highest) number among rows of about the same cost; what is not more than two paired
    errors behind it is a tie.
    """
    to_uncached = [
        "" if target is None else _text(difference(points[position], points[target], column))
        for position, target in enumerate(targets(frame))
    ]
    to_best, values = [""] * len(frame), frame[column].to_numpy(float)
    for rows in same_cost(frame):
        known = [position for position in rows if not math.isnan(values[position])]
        if len(known) < 2:
            continue
        first = min(known, key=lambda position: values[position] if lower_is_better(column) else -values[position])
        for position in known:
            delta = None if position == first else difference(points[position], points[first], column)
            tied = delta is not None and delta.error is not None and not delta.decided
            to_best[position] = "best" if position == first else "tie" if tied else _text(delta)
        if any(to_best[position] == "tie" for position in known):
            to_best[first] = "tie"
    return pd.DataFrame({"to uncached": to_uncached, "to best": to_best}, index=frame.index)


def _text(delta: Difference | None) -> str:
    return "" if delta is None else signed(with_error(delta.value, delta.error))


def same_cost(frame: pd.DataFrame) -> list[list[int]]:
    """Positions of the rows of about the same number of network evaluations, group by group."""
    evaluations = frame["evaluations"].astype(float).round().reset_index(drop=True)
    return [list(map(int, rows)) for rows in evaluations.groupby(evaluations).groups.values()]


def same_target(frame: pd.DataFrame) -> list[list[int]]:
    """The same, apart by solver: distances to the uncached run say nothing across solvers and steps."""
    solver = frame["solver"].to_list()
    return [
        [position for position in rows if solver[position] == name]
        for rows in same_cost(frame)
        for name in dict.fromkeys(solver[position] for position in rows)
    ]


def _cells(frame: pd.DataFrame, points: Sequence[Point], safe: Form, bold: Form) -> pd.DataFrame:
    """The shown columns as text of a format, for which `safe` makes text safe.

    Bold is what is better than every row of about the same cost by two paired errors; marked, what the second extractor
    orders otherwise.
    """
    shown = [column for column in (*SHOWN, *of_plugins()) if column in frame and frame[column].notna().any()]
    records = frame.to_dict("records")
    texts = {column: [safe(cell_text(row, column)) for row in records] for column in shown}
    cells = pd.DataFrame(texts, index=frame.index)
    for column in set(shown) & set(having_error()) & set(qualities()):
        for rows in same_target(frame) if columns()[column].to_target else same_cost(frame):
            rivals = [points[position] for position in rows]
            best = best_of(frame[[column]].iloc[rows], rivals, column, lower_is_better(column))
            if best is not None:
                index = frame.index[rows[best]]
                cells.loc[index, column] = bold(str(cells.loc[index, column]))
    for position in opinions.flagged(opinions.disagreements(frame, points)):
        index, second = frame.index[position], str(opinions.second_of(frame))
        cells.loc[index, second] = f"{cells.loc[index, second]} {opinions.MARK}"
    for column in DIFFERENCES:
        if column in shown:
            beside = differences(frame, points, column)
            place = max(list(cells.columns).index(name) for name in (column, *opinions.SECOND) if name in shown) + 1
            cells.insert(place, f"{column} to best", beside["to best"])
            cells.insert(place, f"{column} to uncached", beside["to uncached"])
    cells.insert(0, "steps", frame["solver"].map(safe))
    cells.insert(0, "method", method_names(frame).where(~is_uncached(frame), "no cache").map(safe))
    return cells.loc[:, [column for column in cells if (cells[column] != "").any()]]


def measurements(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each measurement under its name; rows of different measurements are never put into one table."""
    groups = frame.groupby(MEASUREMENT, sort=False, dropna=False)
    return [(measurement_name(rows.iloc[0].to_dict()), rows) for _, rows in groups]


def _with_points(frame: pd.DataFrame, points: Sequence[Point]) -> Iterator[tuple[str, pd.DataFrame, list[Point]]]:
    """The same, with the points of each one's rows."""
    by_index = dict(zip(frame.index, points, strict=True))
    for name, rows in measurements(frame):
        yield name, rows, [by_index[index] for index in rows.index]


def warning(frame: pd.DataFrame) -> str:
    """Says that the runs are of several measurements, and in which columns they differ; empty if there is only one."""
    groups = frame.drop_duplicates(MEASUREMENT)
    if len(groups) == 1:
        return ""
    differing = [column for column in MEASUREMENT if groups[column].astype(str).nunique() > 1]
    names = ", ".join(differing).replace("measurement", "measurement (weights, reference, ...)")
    return f"{len(groups)} measurements, which differ in {names}: rows of different tables must not be compared."


def uneven_drift(frame: pd.DataFrame) -> str:
    """Says that drifts of rows are over different numbers of samples, and not to be compared; "": they are not."""
    counts = frame.loc[frame["drift"].notna(), "compared"].dropna().unique()
    if len(counts) < 2:
        return ""
    numbers = ", ".join(f"{count:.0f}" for count in sorted(counts))
    return f"Drift is of {numbers} samples in different rows, and smaller of more: not across them."


def notes(frame: pd.DataFrame, points: Sequence[Point], features: int | None) -> list[str]:
    """What a reader of a table must know: what bold means, whose errors are missing, whether samples are too few."""
    said = ["Bold: better than every row of about as many evaluations by more than two paired errors."]
    if agreed := opinions.note(frame, opinions.disagreements(frame, points)):
        said.append(agreed)
    if frame["drift"].notna().any() and frame["solver"].nunique() > 1:
        said.append("Drift, relative L2, PSNR and SSIM are to the uncached run of the same solver: not across solvers.")
    if any(frame[key].notna().any() for key in ("guidance_interval", "cfg_cache") if key in frame):
        said.append(
            "Distances are to full guidance, also where it is saved: an interval leads elsewhere by intention, "
            "halves that are predicted should not."
        )
    if uneven := uneven_drift(frame):
        said.append(uneven)
    accuracy = frame["converged_accuracy"].astype(float).max()
    if not math.isnan(accuracy):
        said.append(f"Distance to the converged solution: known to {accuracy:.2g}.")
    missing: dict[str, list[str]] = {}
    for name, point in zip(frame["series"], points, strict=True):
        if point.missing:
            missing.setdefault(point.missing, []).append(str(name))
    for why, names in missing.items():
        said += [f"No paired error for {name}: {why}." for name in names[:NAMED]]
        if len(names) > NAMED:
            said.append(f"Nor for {len(names) - NAMED} more: {why}.")
    if TUNED_ON in frame and (frame[TUNED_ON] > 0).any():
        tuned = frame[frame[TUNED_ON] > 0]
        names = [str(name) for name in tuned["series"]]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        said.append(
            f"Tuned on up to {tuned[TUNED_ON].max():.0f} of the samples that are scored, which flatters: "
            f"{', '.join(names[:NAMED])}{more}; choose another seed."
        )
    few = frame["samples"].astype(float).min()
    if features is not None and few < features:
        said.append(f"{few:.0f} samples are fewer than the extractor's {features} features: FIDs are biased upward.")
    return said


def published_table(rows: pd.DataFrame) -> str:
    """Markdown of the published numbers that a measurement's rows repeat; empty if there are none."""
    table = published.beside(rows.assign(series=rows["series"].map(markdown_cell)), with_error)
    return f"{table.to_markdown(index=False, floatfmt='.4g')}\n\n- {published.VERDICTS}" if len(table) else ""


def markdown(frame: pd.DataFrame, points: Sequence[Point], features: int | None = None) -> str:
    """Every measurement's table, and the published numbers it can be laid beside.

    frame: `goc.report.frame.over_seeds` with a column `series`; points: the runs of each of its rows. features: how
    many the extractor has.
    """
    parts = [warning(frame)]
    for name, rows, row_points in _with_points(frame, points):
        cells = _cells(rows, row_points, markdown_cell, "**{}**".format)
        parts += [f"## {markdown_cell(name)}", cells.to_markdown(index=False, disable_numparse=True)]
        parts.append("\n".join(f"- {markdown_cell(note)}" for note in notes(rows, row_points, features)))
        if table := published_table(rows):
            parts += ["### Beside the published numbers", table]
    return "\n\n".join(filter(None, parts)) + "\n"


def latex(frame: pd.DataFrame, points: Sequence[Point]) -> str:
    """The same tables for LaTeX with the package booktabs, one `tabular` a measurement."""
    parts = [f"% {warning(frame)}"] if warning(frame) else []
    for name, rows, row_points in _with_points(frame, points):
        cells = _cells(rows, row_points, latex_cell, "\\textbf{{{}}}".format)
        heads = [latex_cell(str(column)) for column in cells.columns]
        lines = [" & ".join(map(str, row)) + r" \\" for row in [heads, *cells.to_numpy()]]
        form = "l" + "r" * (len(cells.columns) - 1)
        body = [rf"\begin{{tabular}}{{{form}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        parts.append("\n".join([f"% {name}", *body, r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"
