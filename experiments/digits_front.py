"""The fronts beside all other caches: `python experiments/digits_front.py outputs/digits_front`.

Reads the finished study (digits_front.yaml beside this, or one like it) and prints as CSV, or writes with --tables
FOLDER to front-NAME.csv:

- shares: for each guidance, number of steps and of computed evaluations the front's mean distance to the uncached
  samples as a share of the best published cache's of at most as many evaluations, of each model, and their mean with
  its standard deviation over the models;
- asked: what was asked for, as means over these shares, and whether it holds;
- closest: how far it is from the closest other cache of any kind with at most as many evaluations, in pairs;
- seven: its seven evaluations of 20 beside GOC's ten;
- others: fronts in folders of their own, whose runs are in another folder than the study's (FOLDER/MODEL-....json; a
  column is called as its folder), as shares of the model's own front: the bound, those that were found elsewhere, or
  with other numbers of calibration samples.

--picture FILE draws the mean distances of the first folder's runs against evaluations.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from digits_ratios import DISTANCE, draw, mean

from goc.report.collect import finished
from goc.report.frame import over_seeds, row_of, table
from goc.report.pairs import Point, difference, points_of
from goc.report.tables import with_error
from goc.system.arguments import command_parser
from goc.system.command import run_command

FRONT = "front"
PUBLISHED = ("goc", "reuse", "taylorseer", "foca", "hicache", "l2p", "dpcache")
# the largest share of the best published distance that was asked for, as a mean over (steps, computed evaluations)
ASKED = {
    "75 and 80 % of 20": (((20, 5), (20, 4)), 0.45),
    "65 % of 20": (((20, 7),), 0.35),
    "50 steps": (((50, 25), (50, 16), (50, 12), (50, 10)), 0.3),
}


@dataclass(frozen=True)
class Run:
    """A cache's run. folder: of its front's file, for one that has it; "" for others."""

    model: str
    guidance: float
    steps: int
    evaluations: float
    method: str
    folder: str
    distance: float
    point: Point

    @property
    def setting(self) -> tuple[str, float, int]:
        """What it shares with the runs that it can be compared with."""
        return self.model, self.guidance, self.steps

    @property
    def known(self) -> bool:
        """Whether it is the cache of another project."""
        return self.method in PUBLISHED


def runs_of(runs: list[tuple[Path, dict[str, Any]]]) -> Iterator[Run]:
    """The caches' runs of a study, the fronts by the folders that their files are in."""
    points = points_of(runs)
    for _, result in runs:
        row = row_of(result)
        if row["method"] == "none":
            continue
        of_front = row["method"] == FRONT
        folder = PurePath(result["config"]["schedule"]["path"]).parent.name if of_front else ""
        yield Run(
            str(row["model"]), float(row["cfg_scale"]), int(row["steps"]), float(row["evaluations"]),
            str(row["method"]), folder, float(row[DISTANCE]), points[row["measurement"], row["point"]],
        )  # fmt: skip


def own(runs: Iterable[Run]) -> list[Run]:
    """The fronts that are each model's own: in the folder that goc train front writes to, or shipped."""
    return [run for run in runs if run.folder == "fronts"]


def best(runs: Iterable[Run], front: Run, published: bool) -> Run | None:
    """The closest other cache of a front's model and sampler with at most as many evaluations."""
    others = (
        run for run in runs
        if run.method != FRONT and run.setting == front.setting
        and run.evaluations < front.evaluations + 0.01 and (run.known or not published)
    )  # fmt: skip
    return min(others, key=lambda run: run.distance if run.distance == run.distance else math.inf, default=None)


def conditions(runs: list[Run]) -> Iterator[tuple[dict[str, Any], list[Run]]]:
    """For each guidance, number of steps and of computed evaluations: these, and the fronts of all models."""
    fronts = own(runs)
    for guidance, steps, count in sorted({(run.guidance, run.steps, run.evaluations) for run in fronts}):
        chosen = [run for run in fronts if (run.guidance, run.steps, run.evaluations) == (guidance, steps, count)]
        yield {"guidance": guidance, "computed": f"{count:g} of {steps}"}, sorted(chosen, key=lambda run: run.model)


def share_of(runs: list[Run], front: Run) -> float | None:
    """A front's distance as a share of the best published one; None: there is no published one."""
    other = best(runs, front, published=True)
    return None if other is None else front.distance / other.distance


def shares(runs: list[Run]) -> Iterator[dict[str, Any]]:
    """Rows of shares of the best published distance."""
    for row, fronts in conditions(runs):
        of_each = {front.model: share for front in fronts if (share := share_of(runs, front)) is not None}
        others = {other.method for front in fronts if (other := best(runs, front, published=True))}
        row |= {"best published": ", ".join(sorted(others)), "share": mean([*of_each.values()])}
        yield row | {model: f"{share:.2f}" for model, share in of_each.items()}


def asked(runs: list[Run]) -> Iterator[dict[str, Any]]:
    """Rows of what was asked for."""
    for what, (cells, limit) in ASKED.items():
        fronts = [front for front in own(runs) if (front.steps, round(front.evaluations)) in cells]
        reached = [share for front in fronts if (share := share_of(runs, front)) is not None]
        if reached:
            held = "holds" if sum(reached) / len(reached) <= limit else "**MISSED**"
            above = sum(share > limit for share in reached)
            yield {
                "of": what,
                "asked for": limit,
                "reached": mean(reached),
                "verdict": held,
                "cells": len(reached),
                "above": above,
            }


def closest(runs: list[Run]) -> Iterator[dict[str, Any]]:
    """Rows of differences to the closest other cache."""
    for row, fronts in conditions(runs):
        for front in fronts:
            if (other := best(runs, front, published=False)) is not None:
                row[front.model] = f"{other.method} {verdict(front, other)}"
        yield row


def verdict(front: Run, other: Run) -> str:
    """The difference in pairs, and what it says."""
    less = difference(front.point, other.point, DISTANCE)
    if less is None or less.error is None:
        return "?"
    text = with_error(less.value, less.error)
    return f"{text} tie" if not less.decided else text if less.value < 0 else f"{text} **farther**"


def seven(runs: list[Run]) -> Iterator[dict[str, Any]]:
    """Rows of seven evaluations beside GOC's ten."""
    for front in sorted(own(runs), key=lambda run: (run.guidance, run.model)):
        tens = (run for run in runs if (run.method, run.evaluations, run.setting) == ("goc", 10, front.setting))
        if (front.steps, front.evaluations) == (20, 7) and (goc := next(tens, None)) is not None:
            row = {"guidance": front.guidance, "model": front.model, "front, 7": f"{front.distance:.4f}"}
            yield row | {"goc, 10": f"{goc.distance:.4f}", "less, in pairs": verdict(front, goc)}


def others(runs: list[Run]) -> Iterator[dict[str, Any]]:
    """Rows of fronts in folders of their own."""
    for front in sorted(own(runs), key=lambda run: (run.guidance, run.model, run.steps, run.evaluations)):
        there = [run for run in runs if run.method == FRONT and run.folder != front.folder
                 and (run.setting, run.evaluations) == (front.setting, front.evaluations)]  # fmt: skip
        if there:
            computed = f"{front.evaluations:g} of {front.steps}"
            row = {"guidance": front.guidance, "model": front.model, "computed": computed}
            row[FRONT] = f"{front.distance:.4f}"
            there.sort(key=lambda run: run.folder)
            yield row | {run.folder: f"{run.distance / front.distance:.2f}" for run in there}


def main() -> int:
    """Print or write the tables; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/digits_front")
    parser.add_argument("--tables", type=Path, help="write them to this folder")
    parser.add_argument("--picture", type=Path, help="draw to this file, too")
    options = parser.parse_args()
    collected = finished(options.folders)
    runs = [*runs_of(collected)]
    for make in (asked, shares, closest, seven, others):
        text = pd.DataFrame(make(runs)).fillna("").to_csv(index=False)
        if options.tables is None:
            print(f"\n{make.__name__}\n{text}", end="")
        else:
            (options.tables / f"front-{make.__name__}.csv").write_text(text)
    if options.picture:
        of_study = [result for folder, result in collected if folder.is_relative_to(options.folders[0])]
        draw(over_seeds(table(of_study)), options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
