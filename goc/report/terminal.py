"""What a terminal shows of a study: few columns and rows, the best first, and where all of it is."""

import math
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from goc.report.columns import columns, lower_is_better, of_plugins, titles
from goc.report.frame import is_uncached, method_names
from goc.report.front import leading, pareto
from goc.report.opinions import SECOND
from goc.report.tables import cell_text, measurements, uneven_drift, warning
from goc.report.text import printable

ROWS, COLUMNS = 10, 8  # of all tables together, and of each
NARROWEST = 18  # characters for a method's name, which goes on in the next line
LONGEST = 120  # characters of one
GAP = 2  # between columns
# the numbers that are shown, those first that may not be missing where there is little room; plugins' after the second
WANTED = ("converged", "fid", *SECOND, "latency_ratio", "drift", "cached", "relative_l2_mean", "clip", "psnr_image",
          "ssim", "lpips", "is", "gmacs")  # fmt: skip


def best_rows(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows of a measurement, the best in its leading quality first.

    These are the rows that none of at most as many evaluations beats, and then the best of the others. The uncached row
    that a distance is to has none to itself.
    """
    quality = leading(rows)
    worse = rows[quality].astype(float) * (1 if lower_is_better(quality) else -1)
    if columns()[quality].to_target:
        worse = worse.mask(is_uncached(rows), -math.inf)
    beaten = ~pareto(rows["evaluations"].to_numpy(float), worse.to_numpy(), lower=True)
    order = rows.assign(worse=worse, beaten=beaten).sort_values(["beaten", "worse"], kind="stable")
    return order.head(most).sort_values("worse", kind="stable")


def table_cells(rows: pd.DataFrame, most: int = COLUMNS) -> list[list[str]]:
    """Rows as text below their heads: method, steps, evaluations, and as many wanted numbers as make `most` columns."""
    records = rows.to_dict("records")
    wanted = dict.fromkeys((leading(rows), *WANTED[:2], *of_plugins(), *WANTED[2:]))
    known = [name for name in wanted if name in rows and rows[name].notna().any()][: most - 3]
    shown = {
        "method": [printable(name, LONGEST) for name in method_names(rows).where(~is_uncached(rows), "no cache")],
        "steps": [printable(str(solver), NARROWEST) for solver in rows["solver"]],
    }
    for name in columns():
        if name in ("evaluations", *known):
            shown[titles(name)[0]] = [cell_text(row, name) for row in records]
    return [list(shown), *map(list, zip(*shown.values(), strict=True))]


def table_lines(rows: pd.DataFrame, across: int) -> list[str]:
    """The same as lines of `across` characters, with as many columns as have room."""
    for most in range(COLUMNS, 3, -1):
        cells = table_cells(rows, most)
        sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
        room = across - sum(sizes[1:]) - GAP * (len(sizes) - 1)
        if room >= min(NARROWEST, sizes[0]):
            break
    wrapped = [textwrap.wrap(first, max(room, NARROWEST), subsequent_indent="  ") for first, *_ in cells]
    longest = max(len(line) for name in wrapped for line in name)
    lines = []
    for (first, *more), (_, *others) in zip(wrapped, cells, strict=True):
        rest = "".join(f"{' ' * GAP}{text:>{size}}" for text, size in zip(others, sizes[1:], strict=True))
        lines += [f"{first:<{longest}}{rest}", *more]
    return lines


def study_lines(frame: pd.DataFrame, out: Path, across: int) -> Iterator[str]:
    """The lines that a sweep ends with: its best rows, a table a measurement, and what must be known of them.

    frame: `goc.report.frame.over_seeds`; out: the folder of its report.
    """
    parts = measurements(frame)
    shown = parts[:ROWS]
    for name, rows in shown:
        best = best_rows(rows, max(1, ROWS // len(parts)))
        yield from textwrap.wrap(name, across)
        yield from table_lines(best, across)
        few = f"{len(best)} of {len(rows)} rows" if len(best) < len(rows) else f"{len(rows)} rows"
        said = f"{few}, by {titles(leading(rows))[1]}, the best first. 1.23(4) is 1.23 with a standard error of 0.04."
        yield from textwrap.wrap(said, across)
        yield from textwrap.wrap(uneven_drift(rows), across)
        yield ""
    if len(parts) > len(shown):
        yield f"and {len(parts) - len(shown)} more measurements"
    yield from textwrap.wrap(warning(frame), across)
    runs = frame["seed"].astype(str).str.count(",").add(1).sum()  # a row is of one or more
    yield f"{runs} runs in {out / 'table.md'}, tradeoff.csv"
    yield f"the page {out / 'report.html'}, and as a picture tradeoff.png"
