"""Two runs side by side: every difference with its paired error, and the samples that differ most, as pictures.

    python -m goc.report compare RUN RUN [--out FOLDER]

RUN is the folder of a finished run. Differences are of the first less the second.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from goc.report.frame import COST, HIGHER_IS_BETTER, LOWER_IS_BETTER
from goc.report.pairs import Point, difference, points_of
from goc.report.results import measurement_of, read_result
from goc.report.tables import signed, with_error
from goc.system.errors import GocError, fail
from goc.system.files import replacing, room_for

SHOWN_SAMPLES = 8
PICTURE = "compare.png"


def load(folder: Path) -> dict[str, Any]:
    """The result in a run's folder; raises GocError if there is none."""
    result = read_result(folder)
    if result is None:
        raise GocError(f"{folder}: holds no finished run")
    return result


def require_comparable(own: dict[str, Any], other: dict[str, Any]) -> None:
    """Raise GocError, of one line, if two results are of different measurements, or have no seeds in common."""
    ours, theirs = measurement_of(own), measurement_of(other)
    differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if differing == ["seed"]:
        raise GocError(f"the runs have no seeds in common (seed={ours['seed']} and {theirs['seed']})")
    if differing:
        values = ", ".join(f"{key}={ours.get(key)} and {theirs.get(key)}" for key in differing)
        raise GocError(f"the runs are of different measurements, which must not be compared: {values}")


def comparison(own: Point, other: Point) -> pd.DataFrame:
    """Every number that both points have: the one, the other, their difference with its error, and what follows."""
    rows = []
    (ours,), (theirs,) = own.rows.values(), other.rows.values()
    for column in (*COST, *LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        found = difference(own, other, column)
        if found is None:
            continue
        verdict = ""
        if found.error is not None:
            better = "first" if (found.value < 0) == (column in LOWER_IS_BETTER) else "second"
            verdict = f"{better} is better" if found.decided else "tie"
        rows.append(
            {
                "": column,
                "first": with_error(ours[column], ours.get(f"{column}_se")),
                "second": with_error(theirs[column], theirs.get(f"{column}_se")),
                "difference": signed(with_error(found.value, found.error)),
                "two paired errors": verdict,
            }
        )
    return pd.DataFrame(rows)


def draw_most_different(runs: list[tuple[Path, dict[str, Any]]], path: Path) -> list[int]:
    """Draw the samples that differ most: the first run's, the second's, and where they differ; returns their indices.

    Raises GocError if the runs' shards, or the latents in them, are not there.
    """
    import torch

    from goc.metrics.distance import relative_distances
    from goc.metrics.statistics import gather
    from goc.sampling.images import image_grid
    from goc.sampling.shards import SampleSet

    sets = []
    for folder, result in runs:
        where, config = result.get("samples", {}).get("folder"), result["config"]
        if where is None or not (folder / where).is_dir():
            raise GocError(f"{folder}: its samples are not there any more")
        sets.append(SampleSet(folder / where, config["num_samples"], config["batch_size"]))
    try:
        latents = zip(*(samples.tensors("latents") for samples in sets), strict=False)
        distances = np.concatenate([relative_distances(own["latents"], other["latents"]) for own, other in latents])
    except SafetensorError as error:
        raise GocError(f"{runs[0][0]}, {runs[1][0]}: keep no latents of the same samples") from error
    worst = np.argsort(-distances, kind="stable")[:SHOWN_SAMPLES]
    images = [gather((tensors["images"] for tensors in samples.tensors("images")), worst) for samples in sets]
    apart = (images[0].int() - images[1].int()).abs().to(torch.uint8)
    with room_for(path), replacing(path) as file:
        image_grid(torch.cat([*images, apart]), columns=len(worst)).save(file, "PNG")
    return worst.tolist()


def main(arguments: list[str] | None = None) -> int:
    """Command line: compare two runs."""
    parser = argparse.ArgumentParser(
        prog="goc compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, help=f"where to write {PICTURE} (default: the first run's folder)")
    options = parser.parse_args(arguments)
    try:
        runs = [(folder, load(folder)) for folder in options.runs]
        require_comparable(runs[0][1], runs[1][1])
        own, other = (next(iter(points_of([run]).values())) for run in runs)
        for name, folder, point in zip(("first", "second"), options.runs, (own, other), strict=True):
            print(f"{name}: {folder}{f' ({point.missing}: no paired errors)' if point.missing else ''}")
        print(f"\n{comparison(own, other).to_string(index=False)}\n")
        path = (options.out or options.runs[0]) / PICTURE
        worst = draw_most_different(runs, path)
        print(f"samples that differ most (first run, second run, difference): {', '.join(map(str, worst))}; {path}")
    except GocError as error:
        return fail(error)
    return 0
