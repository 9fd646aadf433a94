"""tracker=csv: one CSV file for a study, a row for each finished run."""

import io
from pathlib import Path

import pandas as pd

from goc.report.frame import INTERNAL, table
from goc.report.result import Result
from goc.report.text import csv_cell, csv_text, printable
from goc.system.errors import GocError
from goc.system.files import write_text
from goc.system.locks import Lock

TRACKED_FILE = "tracked.csv"  # in the study's folder
LOCK_TIMEOUT_S = 30.0


def track_in_csv(folder: Path) -> Path:
    """Write a finished run's row of the results table to its study's tracked.csv, and return that file's path.

    The rows are in the order in which runs were tracked; a run that is there already has its row replaced. Raises
    GocError if the folder holds no finished run, or the file is no such table.
    """
    result = dict(Result.load(folder).content)
    run = printable(folder.name)
    path = folder.parent / TRACKED_FILE
    with Lock(folder.parent / f".{TRACKED_FILE}.lock", timeout=LOCK_TIMEOUT_S):
        row = table([result]).drop(columns=INTERNAL)
        row.insert(0, "run", run)
        rows = [_read_text(csv_text(row))]
        if path.exists():
            try:
                before = _read_text(path.read_text(encoding="utf-8"))
                rows.insert(0, before[before["run"] != csv_cell(run)])
            except (ValueError, KeyError) as error:  # of pandas' parsers, or no such column
                raise GocError(f"{path}: is no table of tracked runs; move it away") from error
        write_text(path, pd.concat(rows).to_csv(index=False))
    return path


def _read_text(csv: str) -> pd.DataFrame:
    """A CSV table whose cells stay the text they are."""
    return pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)
