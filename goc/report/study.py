"""Pictures and tables of finished runs: `python -m goc.report PATH...` over any folders that hold runs.

Writes results.csv (every run), tradeoff.csv (every point, seeds put together), table.md and table.tex, tradeoff.png,
.svg and .pdf, and report.html, one page to look at the numbers and the images; of several models of one family also
the means over them (in table.md) and alignments.png.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from goc.metrics.registry import EXTRACTORS, PLUGINS
from goc.report import families
from goc.report.alignment import plot_alignments
from goc.report.collect import Collected, Why, find, tell
from goc.report.frame import INTERNAL, over_seeds, series_names, table
from goc.report.page import write_html
from goc.report.pairs import Point, damaged, points_of
from goc.report.plots import plot_tradeoff
from goc.report.results import extractor_of, read_first_images
from goc.report.tables import latex, markdown
from goc.report.terminal import study_lines
from goc.report.text import csv_text, printable, width
from goc.system.arguments import command_parser
from goc.system.errors import GocError
from goc.system.files import room_for, write_text
from goc.system.plugins import load_plugins
from goc.system.registry import GIVING


class FirstImages(Sequence[np.ndarray | None]):
    """The first samples of each point, read when they are asked for: those of many runs do not fit into memory.

    The first seed's stand for a point. skipped: where files that are damaged are added, once.
    """

    def __init__(self, points: Sequence[Point], skipped: list[Why]) -> None:
        self.folders, self.skipped = [point.folders[min(point.folders)] for point in points], skipped

    def __getitem__(self, place: Any) -> Any:
        try:
            return read_first_images(self.folders[place])
        except ValueError as error:
            why = printable(str(self.folders[place])), f"{error}: no pictures"
            if why not in self.skipped:
                self.skipped.append(why)
            return None

    def __len__(self) -> int:
        return len(self.folders)


def _write(path: Path, text: str) -> None:
    with room_for(path):
        write_text(path, text)


def write_report(collected: Collected, out: Path) -> tuple[pd.DataFrame, list[str]]:
    """Write the report on some runs to a folder.

    Returns the table of points, seeds put together, and lines that say what the pictures have no room for. Files of a
    run that are damaged are added to `collected.skipped`; its numbers stay in the report.
    """
    runs = collected.runs
    frame = table([result for _, result in runs])
    _write(out / "results.csv", csv_text(frame.drop(columns=INTERNAL)))
    frame = over_seeds(frame)
    frame["series"] = series_names(frame)
    _write(out / "tradeoff.csv", csv_text(frame.drop(columns=[*INTERNAL, "series"])))
    by_key = points_of(runs)
    points = [by_key[key] for key in zip(frame["measurement"], frame["point"], strict=True)]
    features = {EXTRACTORS[name].size for _, result in runs if (name := extractor_of(result)) in EXTRACTORS}
    means = families.markdown(frame, points)
    _write(out / "table.md", "\n".join(filter(None, [means, markdown(frame, points, max(features, default=None))])))
    _write(out / "table.tex", latex(frame, points))
    left_out = plot_tradeoff(frame, out), plot_alignments([result for _, result in runs], out / "alignments.png")
    with room_for(out / "report.html"):
        images = FirstImages(points, collected.skipped)
        write_html(frame, images, points, collected.failures, out / "report.html", collected.skipped)
    collected.skipped.extend(damaged(points))
    return frame, list(filter(None, left_out))


def lacking_plugins(collected: Collected) -> list[str]:
    """Packages that metrics of some runs come from, and that are not loaded here."""
    packages = dict.fromkeys(package for _, result in collected.runs for package in result.get(PLUGINS, {}))
    return [package for package in packages if package not in GIVING]


def main(arguments: list[str] | None = None) -> int:
    """Command line: report on the runs below the given folders."""
    parser = command_parser(__doc__, "goc report")
    parser.add_argument("paths", nargs="+", type=Path, help="folders that hold runs, at any depth")
    parser.add_argument("--out", type=Path, help="where to write (default: the first path)")
    options = parser.parse_args(arguments)
    load_plugins()  # whose metrics have columns
    collected = find(options.paths)
    tell(collected.skipped)
    told = len(collected.skipped)
    if not collected.runs:
        names = ", ".join(printable(str(path)) for path in options.paths)
        raise GocError(f"no finished run below {names}")
    out = options.out or options.paths[0]
    out.mkdir(parents=True, exist_ok=True)
    points, left_out = write_report(collected, out)
    tell(collected.skipped[told:])
    print()
    for line in study_lines(points, out, width()):
        print(line)
    for package in lacking_plugins(collected):
        print(f"metrics of {package} are left out, as it is not loaded: GOC_PLUGINS={package} goc report ...")
    for line in left_out:
        print(line)
    return 0
