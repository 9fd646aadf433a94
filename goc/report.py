"""Pictures and tables of finished runs: `python -m goc.report PATH...` over any folders that hold runs.

Writes results.csv (every run), tradeoff.csv (every point, seeds put together), table.md and table.tex, tradeoff.png,
.svg and .pdf, and report.html, one page to look at the numbers and the images.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from goc.html_report import write_html
from goc.plots import plot_tradeoff
from goc.results import CLAIM_FILE, FAILURE_FILE, FIRST_IMAGES, RESULT_FILE, over_seeds, read_result, table
from goc.tables import latex, markdown, protocols, warning

# settings that tell runs of one method apart, and their short names
SETTINGS = {"gradient_weights": "w", "inflection_threshold": "threshold"}
PRINTED = ("method", "cached", "fid", "sfid", "is", "kid", "mse", "psnr", "macs_saved", "ms_per_image", "latency_ratio")


def collect(paths: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and result of every finished run below the paths, each once, in a fixed order."""
    folders = sorted({file.parent.resolve() for path in paths for file in path.rglob(RESULT_FILE)})
    return [(folder, result) for folder in folders if (result := read_result(folder)) is not None]


def skipped(paths: list[Path]) -> list[tuple[Path, str]]:
    """(folder, why) of every run below the paths that has no result to report: not finished, or a damaged file."""
    folders = {
        file.parent.resolve() for path in paths for name in (CLAIM_FILE, RESULT_FILE) for file in path.rglob(name)
    }
    return [
        (folder, f"{RESULT_FILE} is damaged" if (folder / RESULT_FILE).exists() else "not finished")
        for folder in sorted(folders)
        if read_result(folder) is None
    ]


def failures(paths: list[Path]) -> list[tuple[str, str]]:
    """(run, reason) of every run below the paths that failed when it was last tried."""
    files = sorted({file.resolve() for path in paths for file in path.rglob(FAILURE_FILE)})
    return [(file.parent.name, file.read_text().splitlines()[0]) for file in files]


def series_names(frame: pd.DataFrame) -> pd.Series:
    """A name for each run: its method, and those settings that differ between runs of one method."""
    names = frame["method"].astype(str)
    for setting, short in SETTINGS.items():
        values = frame[setting].map(lambda value: "none" if value is None or value != value else str(value))
        varies = values.groupby(frame["method"]).transform("nunique") > 1
        names = names.where(~varies, names + f", {short} " + values)
    return names


def _first_images(folder: Path) -> np.ndarray | None:
    path = folder / FIRST_IMAGES
    return np.load(path, allow_pickle=False) if path.exists() else None


def write_report(runs: list[tuple[Path, dict[str, Any]]], failed: list[tuple[str, str]], out: Path) -> pd.DataFrame:
    """Write the report on some runs to a folder; returns the table of points, seeds put together."""
    frame = table([result for _, result in runs])
    frame.drop(columns="point").to_csv(out / "results.csv", index=False)
    points = over_seeds(frame)
    points["series"] = series_names(points)
    points.drop(columns=["point", "series"]).to_csv(out / "tradeoff.csv", index=False)
    (out / "table.md").write_text(markdown(points))
    (out / "table.tex").write_text(latex(points))
    plot_tradeoff(points, out)
    by_point: dict[tuple[str, str], Path] = {}
    for folder, result in runs:
        row = table([result]).iloc[0]
        by_point.setdefault((row["protocol"], row["point"]), folder)  # the first seed's images stand for a point
    images = [_first_images(by_point[key]) for key in zip(points["protocol"], points["point"], strict=True)]
    write_html(points.drop(columns="point"), images, failed, out / "report.html")
    return points


def main(arguments: list[str] | None = None) -> int:
    """Command line: report on the runs below the given folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="folders that hold runs, at any depth")
    parser.add_argument("--out", type=Path, help="where to write (default: the first path)")
    options = parser.parse_args(arguments)
    for folder, why in skipped(options.paths):
        print(f"skipped: {folder}: {why}", file=sys.stderr)
    runs = collect(options.paths)
    if not runs:
        print(f"no finished run below {', '.join(map(str, options.paths))}", file=sys.stderr)
        return 1
    out = options.out or options.paths[0]
    out.mkdir(parents=True, exist_ok=True)
    points = write_report(runs, failures(options.paths), out)
    for name, rows in protocols(points.assign(method=points["series"])):
        shown = rows[[column for column in PRINTED if rows[column].notna().any()]]
        print(f"{name}\n{shown.to_string(index=False, float_format='{:.4g}'.format)}\n")
    if warning(points):
        print(warning(points))
    written = ("report.html", "tradeoff.png", "tradeoff.csv", "table.md")
    print(f"{len(runs)} runs: {', '.join(str(out / name) for name in written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
