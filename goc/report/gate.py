"""A quality gate: does a run keep what it must? `goc report check RUN... --min psnr_image=30 ssim=0.92 --max fid=5`."""

import argparse
import math
from collections.abc import Callable, Sequence
from operator import ge, le
from pathlib import Path

from goc.report.columns import columns, cost, qualities
from goc.report.frame import row_of
from goc.report.result import Result
from goc.report.text import printable
from goc.system.errors import GocError, did_you_mean
from goc.system.plugins import load_plugins


def numbers() -> list[str]:
    """The columns that can be asked for."""
    return [*qualities(), *cost()]


def limit(text: str) -> tuple[str, float]:
    """NAME=VALUE as a column's name and a number; raises GocError."""
    name, equals, value = text.partition("=")
    if name not in numbers():
        raise GocError(
            f"{text}: must be NAME=VALUE with a name of {', '.join(numbers())}{did_you_mean(name, numbers())}"
        )
    try:
        number = float(value) if equals else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise GocError(f"{text}: must be NAME=VALUE with a number, as in psnr_image=30")
    return name, number


def verdicts(folder: Path, least: Sequence[tuple[str, float]], most: Sequence[tuple[str, float]]) -> list[str]:
    """A line for each number of a run and each limit: "ok", or "FAILED", which a number that is not there has too."""
    row = row_of(dict(Result.load(folder).content))
    lines = []
    asked: list[tuple[str, str, Callable[[float, float], bool], float]] = [
        *((name, "at least", ge, value) for name, value in least),
        *((name, "at most", le, value) for name, value in most),
    ]
    for name, words, holds, value in asked:
        measured, error = row[name], row.get(f"{name}_se")
        shown = "not measured" if measured is None else f"{measured:.5g}" + (f" +- {error:.2g}" if error else "")
        good = measured is not None and holds(measured, value)
        lines.append(f"{'ok' if good else 'FAILED':<8}{columns()[name].name} {shown}, must be {words} {value:g}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit code is 1 if any limit is not kept."""
    parser = argparse.ArgumentParser(prog="goc report check", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    for option, words in (("--min", "least"), ("--max", "most")):
        parser.add_argument(
            option, nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=f"the {words} a number may be"
        )
    options = parser.parse_args(arguments)
    load_plugins()  # whose metrics have columns
    least, most = [limit(text) for text in options.min], [limit(text) for text in options.max]
    if not least and not most:
        raise GocError("goc report check: must have a limit, as in --min psnr_image=30")
    failed = False
    for folder in options.runs:
        print(printable(str(folder)))
        lines = verdicts(folder, least, most)
        print("\n".join(lines))
        failed |= any(line.startswith("FAILED") for line in lines)
    return int(failed)
