"""The README's picture: `python experiments/digits_budget.py outputs/demo --picture docs/distance.png`.

Draws how far samples end from the converged solution against network evaluations, of five ways to spend them, from a
finished study (digits_budget.yaml beside this, or the shorter one of `make demo`). A point is the closest that a way
comes with so many evaluations or fewer, on whatever number of steps the study has.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from goc.report.collect import find, tell
from goc.report.figures import write_figure
from goc.report.frame import MEASUREMENT, over_seeds, table
from goc.report.front import beyond, pareto
from goc.report.plots import cut_at_frame, mark_beyond, round_ticks
from goc.system.arguments import command_parser
from goc.system.command import run_command
from goc.system.errors import GocError

WAYS = {
    "none": "no cache, fewer steps",
    "reuse": "reuse (FORA)",
    "goc": "GOC, as published",
    "taylorseer": "TaylorSeer",
    "searched_learned": "searched + learned (ours)",
}
LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": color, "marker": marker}
    for name, color, marker in zip(WAYS.values(), ("black", "C2", "C0", "C4", "C3"), "sDPvo", strict=True)
}
DISTANCE = "converged"


def closest(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each way, the rows that none of its own beats with as many evaluations or fewer.

    `series` is the way's name; `far`: whether so far off that it has no place in the picture.
    """
    rows = frame[frame["method"].isin(WAYS) & frame[DISTANCE].notna()]
    rows = rows.assign(series=rows["method"].map(WAYS), far=beyond(rows, DISTANCE))
    fronts = [
        group[pareto(group["evaluations"].to_numpy(float), group[DISTANCE].to_numpy(float), lower=True)]
        for _, group in rows.groupby("series", sort=False)
    ]
    return pd.concat(fronts).sort_values("evaluations") if fronts else rows


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Distance against evaluations, a line a way, with standard errors; what is far beyond is marked at the frame."""
    figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for name, look in LOOKS.items():
        group = rows[rows["series"] == name]
        axis.errorbar(group["evaluations"], group[DISTANCE], group[f"{DISTANCE}_se"], label=name, capsize=2, **look)
    axis.set_xscale("log")
    cut_at_frame(axis, rows, rows["far"].to_numpy(), DISTANCE)
    mark_beyond(axis, rows[rows["far"]], "evaluations", DISTANCE, LOOKS)
    round_ticks(axis.xaxis, axis.get_xlim())
    solvers = " or ".join(sorted(rows.loc[rows["method"] != "none", "solver"].unique()))
    axis.set_title(
        f"Digits; caches on {solvers}, whichever ends closer; bars: one standard error", loc="left", fontsize=10
    )
    axis.set_xlabel("network evaluations for one image (fewer is cheaper)")
    axis.set_ylabel("distance to the converged solution\n(lower is better)")
    axis.grid(alpha=0.3)
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: labels[place] not in LOOKS)  # the mark at the frame last
    axis.legend([handles[place] for place in order], [labels[place] for place in order], frameon=False)
    write_figure(figure, path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Draw the picture; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/digits_budget")
    parser.add_argument("--picture", type=Path, required=True, help="draw to this file")
    options = parser.parse_args()
    collected = find(options.folders)
    tell(collected.skipped)
    frame = over_seeds(table([result for _, result in collected.runs])) if collected.runs else pd.DataFrame()
    rows = closest(frame) if len(frame) else frame
    if not len(rows):
        raise GocError(f"no finished runs there of {', '.join(WAYS)} whose {DISTANCE} distance was measured")
    if len(rows.drop_duplicates(MEASUREMENT)) > 1:
        raise GocError("runs of several measurements: their numbers must not share a picture")
    draw(rows, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
