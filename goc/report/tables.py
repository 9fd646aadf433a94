"""Tables for papers: Markdown and LaTeX, the best in bold, and measured numbers beside published ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from goc.report.frame import COST, HIGHER_IS_BETTER, LOWER_IS_BETTER, PROTOCOL, protocol_name

SHOWN = ("cached", *LOWER_IS_BETTER[:2], *HIGHER_IS_BETTER[:3], "kid", "mse", "relative_l2", "psnr", *COST[1:])
PERCENT = ("cached", "macs_saved")
COMPARED = ("fid", "sfid", "is", "precision", "recall")
SAME_RATIO = 0.03  # rows compete, and match published ones, where their ratios are this close
PUBLISHED = Path(__file__).parent.parent.parent / "experiments" / "published.csv"

Bold = Callable[[str], str]


def _number(value: float, column: str) -> str:
    return f"{100 * value:.1f} %" if column in PERCENT else f"{value:.4g}"


def _text(row: pd.Series, column: str) -> str:
    """A cell: the number, with its spread over seeds if it has one; empty if it was not measured."""
    if pd.isna(row[column]):
        return ""
    spread = row.get(f"{column}_spread")
    shown = _number(row[column], column)
    return shown if spread is None or pd.isna(spread) or spread == 0 else f"{shown} ± {_number(spread, column)}"


def winner(rows: pd.DataFrame, column: str) -> Any:
    """Index of the row that is best in a column; None if there are no two to compare, or the lead is within the spread.

    The lead is the difference to the second best, the spread the larger one of the two rows over their seeds.
    """
    values = rows[column].astype(float).dropna().sort_values(ascending=column in LOWER_IS_BETTER)
    if len(values) < 2:
        return None
    spreads = rows.get(f"{column}_spread")
    spread = 0.0 if spreads is None else spreads.astype(float).fillna(0.0)[values.index[:2]].max()
    return values.index[0] if abs(values.iloc[0] - values.iloc[1]) > spread else None


def _cells(frame: pd.DataFrame, bold: Bold) -> pd.DataFrame:
    """The shown columns as text; among cached runs of about the same ratio, the best of each quality is bold."""
    columns = [column for column in SHOWN if column in frame and frame[column].notna().any()]
    cells = pd.DataFrame({column: [_text(row, column) for _, row in frame.iterrows()] for column in columns})
    cells.index = frame.index
    cached = frame[frame["cached"] > 0]
    for _, rivals in cached.groupby((cached["cached"] / SAME_RATIO / 2).round()):
        for column in columns:
            best = winner(rivals, column) if column in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER) else None
            if best is not None:
                cells.loc[best, column] = bold(str(cells.loc[best, column]))
    cells.insert(0, "method", frame["series"])
    return cells


def protocols(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs of each protocol under its name; rows of different protocols are never put into one table."""
    groups = frame.groupby(PROTOCOL, sort=False, dropna=False)
    return [(protocol_name(rows.iloc[0].to_dict()), rows) for _, rows in groups]


def warning(frame: pd.DataFrame) -> str:
    """Says that the runs are of several protocols, and in which columns these differ; empty if there is only one."""
    groups = frame.drop_duplicates(PROTOCOL)
    if len(groups) == 1:
        return ""
    differing = [column for column in PROTOCOL if groups[column].astype(str).nunique() > 1]
    names = ", ".join(column if column != "protocol" else "protocol (weights, reference, ...)" for column in differing)
    return f"{len(groups)} protocols, which differ in {names}: rows of different tables must not be compared."


def published(frame: pd.DataFrame, path: Path = PUBLISHED) -> pd.DataFrame:
    """Measured beside published numbers: one row for each metric of each published row that a run repeats.

    A run repeats a published row of the same model, sampler, steps, guidance and method at about the same ratio.
    """
    keys = ["model", "sampler", "steps", "cfg_scale", "method"]
    others = pd.read_csv(path).rename(columns={name: f"{name}_published" for name in ("cached", *COMPARED)})
    pairs = frame.merge(others, on=keys)
    pairs = pairs[(pairs["cached"] - pairs["cached_published"]).abs() <= SAME_RATIO]
    rows = [
        {
            "method": pair["series"],
            "cached": _number(pair["cached_published"], "cached"),
            "metric": metric,
            "measured": pair[metric],
            "published": pair[f"{metric}_published"],
            "difference": pair[metric] - pair[f"{metric}_published"],
            "samples": pair["samples"],
            "source": pair["source"],
        }
        for _, pair in pairs.iterrows()
        for metric in COMPARED
        if pd.notna(pair.get(metric)) and pd.notna(pair[f"{metric}_published"])
    ]
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame) -> str:
    """Every protocol's table, and the published numbers it can be laid beside."""
    parts = [warning(frame)]
    for name, rows in protocols(frame):
        parts += [f"## {name}", _cells(rows, "**{}**".format).to_markdown(index=False, disable_numparse=True)]
        beside = published(rows)
        if len(beside):
            parts += ["### Beside the published numbers", beside.to_markdown(index=False, floatfmt=".4g")]
    return "\n\n".join(filter(None, parts)) + "\n"


def _escaped(text: str) -> str:
    for character in "%_&#":
        text = text.replace(character, "\\" + character)
    return text.replace("±", "$\\pm$")


def latex(frame: pd.DataFrame) -> str:
    """The same tables for LaTeX with the package booktabs, one `tabular` a protocol."""
    parts = [f"% {warning(frame)}"] if warning(frame) else []
    for name, rows in protocols(frame):
        cells = _cells(rows, "\\textbf{{{}}}".format)
        lines = [" & ".join(map(_escaped, map(str, row))) + r" \\" for row in [cells.columns, *cells.to_numpy()]]
        form = "l" + "r" * (len(cells.columns) - 1)
        body = [rf"\begin{{tabular}}{{{form}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        parts.append("\n".join([f"% {name}", *body, r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"
