"""Pictures and tables of finished runs: `python -m goc.report PATH...` over any folders that hold runs.

Writes results.csv (every run), tradeoff.csv (every point, seeds put together), table.md and table.tex, tradeoff.png,
.svg and .pdf, and report.html, one page to look at the numbers and the images; of several models of one family also
the means over them (in table.md) and alignments.png.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from goc.metrics.kinds import EXTRACTORS
from goc.report import families
from goc.report.alignment import plot_alignments
from goc.report.frame import INTERNAL, over_seeds, series_names, table
from goc.report.page import write_html
from goc.report.pairs import points_of
from goc.report.plots import plot_tradeoff
from goc.report.results import FIRST_IMAGES, collect, extractor_of, failures, skipped
from goc.report.tables import latex, markdown, measurements, warning
from goc.system.errors import GocError, fail
from goc.system.files import room_for, write_atomically

PRINTED = ("method", "steps", "evaluations", "fid", "fid_se", "sfid", "is", "clip", "converged", "drift",
           "relative_l2_median", "gmacs", "latency_ratio")  # fmt: skip


def _first_images(folder: Path) -> np.ndarray | None:
    path = folder / FIRST_IMAGES
    return np.load(path, allow_pickle=False) if path.exists() else None


def _write(path: Path, text: str) -> None:
    with room_for(path):
        write_atomically(path, text.encode())


def write_report(runs: list[tuple[Path, dict[str, Any]]], failed: list[tuple[str, str]], out: Path) -> pd.DataFrame:
    """Write the report on some runs to a folder; returns the table of points, seeds put together."""
    frame = table([result for _, result in runs])
    _write(out / "results.csv", frame.drop(columns=INTERNAL).to_csv(index=False))
    frame = over_seeds(frame)
    frame["series"] = series_names(frame)
    _write(out / "tradeoff.csv", frame.drop(columns=[*INTERNAL, "series"]).to_csv(index=False))
    by_key = points_of(runs)
    points = [by_key[key] for key in zip(frame["measurement"], frame["point"], strict=True)]
    features = {EXTRACTORS[name].size for _, result in runs if (name := extractor_of(result)) in EXTRACTORS}
    means = families.markdown(frame, points)
    _write(out / "table.md", "\n".join(filter(None, [means, markdown(frame, points, max(features, default=None))])))
    _write(out / "table.tex", latex(frame, points))
    plot_tradeoff(frame, out)
    plot_alignments([result for _, result in runs], out / "alignments.png")
    # the first seed's stand for a point
    images = [_first_images(point.folders[min(point.folders)]) for point in points]
    with room_for(out / "report.html"):
        write_html(frame, images, points, failed, out / "report.html")
    return frame


def main(arguments: list[str] | None = None) -> int:
    """Command line: report on the runs below the given folders."""
    parser = argparse.ArgumentParser(
        prog="goc report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    try:
        out.mkdir(parents=True, exist_ok=True)
        points = write_report(runs, failures(options.paths), out)
    except (GocError, OSError) as error:
        return fail(error)
    for name, rows in measurements(points.assign(method=points["series"])):
        shown = rows[[column for column in PRINTED if rows[column].notna().any()]]
        print(f"{name}\n{shown.to_string(index=False, float_format='{:.4g}'.format)}\n")
    if warning(points):
        print(warning(points))
    written = ("report.html", "tradeoff.png", "tradeoff.csv", "table.md")
    print(f"{len(runs)} runs: {', '.join(str(out / name) for name in written)}")
    return 0
