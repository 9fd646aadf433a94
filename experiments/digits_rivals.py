"""The rivals of a cache beside it: `python experiments/digits_rivals.py outputs/digits_rivals`.

Reads the finished study (digits_rivals.yaml beside this) and prints as CSV, or writes with --tables FOLDER to
rivals-MODEL.csv, each way with 4, 5, 7 and 10 network evaluations: its mean distance to the converged solution and
its FID, with their errors. The number of a way that has others is in the column of the nearest, with (n) behind it; of
several there the one of the fewest evaluations. Ways are sorted by their distance with five.
"""

import sys
from pathlib import Path

import pandas as pd

from goc.report.collect import finished
from goc.report.frame import table
from goc.report.tables import cell_text
from goc.system.arguments import command_parser
from goc.system.command import run_command

COUNTS = (4, 5, 7, 10)
FIRST = 5  # evaluations that rows are sorted by
QUALITIES = {"converged": "to converged", "fid": "FID"}


def way_of(row: pd.Series) -> str:
    """A way without its number of evaluations: a solver, or a method on one with its steps."""
    return row["kind"] if row["method"] == "none" else f"{row['method']} on {row['solver']}"


def nearest(evaluations: float) -> int:
    """The column of a number of evaluations."""
    return min(COUNTS, key=lambda count: (abs(count - evaluations), count))


def pivot(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of one model: a row a way, a column a number of evaluations and a quality."""
    frame = frame.assign(way=frame.apply(way_of, axis=1), count=frame["evaluations"].map(nearest))
    frame = frame.sort_values("evaluations").drop_duplicates(["way", "count"])
    cells: dict[str, dict[str, str]] = {}
    for row in frame.to_dict("records"):
        cell = cells.setdefault(row["way"], {"way": row["way"]})
        more = "" if row["evaluations"] == row["count"] else f" ({row['evaluations']:g})"
        for quality, title in QUALITIES.items():
            cell[f"{title}, {row['count']}"] = cell_text(row, quality) + more
    order = frame[frame["count"] == FIRST].set_index("way")["converged"].to_dict()
    rows = sorted(cells.values(), key=lambda cell: (order.get(cell["way"], float("inf")), cell["way"]))
    columns = ["way", *(f"{title}, {count}" for title in QUALITIES.values() for count in COUNTS)]
    return pd.DataFrame(rows, columns=columns).fillna("")


def main() -> int:
    """Print or write the tables; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/digits_rivals")
    parser.add_argument("--tables", type=Path, help="write them to this folder")
    options = parser.parse_args()
    frame = table([result for _, result in finished(options.folders)])
    for model, rows in frame.groupby("model"):
        text = pivot(rows).to_csv(index=False)
        if options.tables is None:
            print(f"\n{model}\n{text}", end="")
        else:
            (options.tables / f"rivals-{model}.csv").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
