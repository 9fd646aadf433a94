"""The table of the study on fashion: `python experiments/fashion.py outputs/fashion`.

Reads the finished study (fashion.yaml beside this) and prints as CSV, or writes with --table FILE, for each model and
number of evaluations every way: its mean distance to the converged solution, to the uncached samples of its own solver,
and its FID, with their errors. The closest to the converged solution is first.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from goc.report.collect import finished
from goc.report.frame import over_seeds, table
from goc.report.tables import with_error
from goc.system.arguments import command_parser
from goc.system.command import run_command

COLUMNS = {"to converged": "converged", "distance": "relative_l2_mean", "FID": "fid"}


def ways(frame: pd.DataFrame) -> Iterable[dict[str, str]]:
    """The rows: of settings that came out as the same run one."""
    frame = frame.assign(evaluations=frame["evaluations"].astype(float).round(2))
    frame = frame.sort_values(["model", "evaluations", "converged"], ascending=[True, False, True])
    for _, row in frame.drop_duplicates(["model", "solver", "method", "evaluations", "converged"]).iterrows():
        cells = {"model": row["model"], "evaluations": f"{row['evaluations']:g}", "solver": row["solver"]}
        cells["method"] = "no cache" if row["method"] == "none" else row["method"]
        for title, column in COLUMNS.items():
            known = not pd.isna(row.get(column))
            cells[title] = with_error(row[column], row.get(f"{column}_se")) if known else ""
        yield cells


def main() -> int:
    """Print or write the table; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/fashion")
    parser.add_argument("--table", type=Path, help="write it to this file")
    options = parser.parse_args()
    rows = pd.DataFrame(ways(over_seeds(table([result for _, result in finished(options.folders)]))))
    print(rows.to_csv(index=False), end="") if options.table is None else rows.to_csv(options.table, index=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
