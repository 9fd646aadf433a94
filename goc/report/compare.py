"""Two runs side by side: every difference with its paired error, and the samples that differ most, as pictures.

    python -m goc.report compare RUN RUN [--out FOLDER]

RUN is the folder of a finished run. Differences are of the first less the second.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from goc.config.settings import Output
from goc.report.columns import cost, lower_is_better, qualities
from goc.report.pairs import Point, difference, points_of
from goc.report.result import Result
from goc.report.results import measurement_of
from goc.report.tables import signed, with_error
from goc.report.text import printable
from goc.system.arguments import command_parser
from goc.system.errors import GocError
from goc.system.files import replacing, room_for
from goc.system.plugins import load_plugins

if TYPE_CHECKING:
    from torch import Tensor

    from goc.sampling.shards import SampleSet

SHOWN_SAMPLES = 8
PICTURE = "compare.png"
CACHED = re.compile(r"uncached-[0-9a-f]{16}")  # as goc.sampling.shared names them
LONGEST_VALUES = 1000  # characters of the values in which two measurements differ


def require_comparable(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Raise GocError, of one line, if two results are of different measurements, or have no seeds in common."""
    ours, theirs = measurement_of(first), measurement_of(second)
    differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if differing == ["seed"]:
        raise GocError(f"the runs have no seeds in common (seed={ours.get('seed')} and {theirs.get('seed')})")
    if differing:
        values = ", ".join(f"{key}={ours.get(key)} and {theirs.get(key)}" for key in differing)
        raise GocError(
            f"the runs are of different measurements, which must not be compared: {printable(values, LONGEST_VALUES)}"
        )


def compared_points(runs: Sequence[tuple[Path, dict[str, Any]]]) -> tuple[Point, Point]:
    """The points of two runs; raises GocError as `require_comparable`."""
    first, second = runs
    require_comparable(first[1], second[1])
    a, b = (next(iter(points_of([run]).values())) for run in runs)
    return a, b


def comparison(first: Point, second: Point) -> pd.DataFrame:
    """Every number that both points have: the one, the other, their difference with its error, and what follows."""
    rows = []
    (ours,), (theirs,) = first.rows.values(), second.rows.values()
    for column in (*cost(), *qualities()):
        delta = difference(first, second, column)
        if delta is None:
            continue
        verdict = ""
        if delta.error is not None:
            better = "first" if (delta.value < 0) == lower_is_better(column) else "second"
            verdict = f"{better} is better" if delta.decided else "tie"
        rows.append(
            {
                "": column,
                "first": with_error(ours[column], ours.get(f"{column}_se")),
                "second": with_error(theirs[column], theirs.get(f"{column}_se")),
                "difference": signed(with_error(delta.value, delta.error)),
                "two paired errors": verdict,
            }
        )
    return pd.DataFrame(rows)


def samples_of(folder: Path, result: dict[str, Any], cache_dir: Path | None) -> "SampleSet":
    """A run's samples on disk; raises GocError if they are not there, or would be somebody else's.

    They are in the run's own folder, or uncached ones in a folder uncached-KEY of the runs' cache. A result says where,
    but is not followed out of the run's folder, or to anything but a cache: below the folder that holds the run's
    study, where runs keep it by default, or else in `cache_dir`.
    """
    from goc.sampling.shards import SampleSet

    name, where = printable(str(folder)), (result.get("samples") or {}).get("folder")
    run = folder.resolve()
    if where is None or "\0" in where or not (samples := (run / where).resolve()).is_dir():
        raise GocError(f"{name}: its samples are not there any more")
    caches = (run.parent.parent, Path(Output.cache_dir).resolve()) if cache_dir is None else (cache_dir.resolve(),)
    cached = CACHED.fullmatch(samples.name) and any(map(samples.is_relative_to, caches))
    if not (samples.is_relative_to(run) or cached):
        raise GocError(
            f"{name}: samples.folder={printable(where)}: must be in the run's folder, or uncached samples in a cache "
            f"below {printable(str(caches[0]))}; name another cache by --cache-dir"
        )
    count, size = (result["config"].get(key) for key in ("num_samples", "batch_size"))
    if not count or not size:
        raise GocError(f"{name}: config.num_samples and config.batch_size are not told, by which shards are found")
    return SampleSet(samples, count, size)


def kept_samples(samples: "SampleSet") -> "Iterator[tuple[Tensor, Tensor]]":
    """Latents [n, C, H, W] and images uint8 [n, C', H', W'] of the first samples, as far as both were kept.

    Shard by shard; raises GocError, naming the file, if one is missing or damaged.
    """
    for indices in samples.shards:
        path = samples.path(indices)
        try:
            if not path.is_file() or path.resolve().parent != samples.folder:
                raise ValueError("missing" if not os.path.lexists(path) else "no file of this folder")
            tensors, _ = samples.read(indices)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise GocError(f"{printable(str(path))}: {printable(str(error))}; run its command again") from error
        if not {"latents", "images"} <= tensors.keys():
            return
        latents, images = tensors["latents"], tensors["images"]
        if not len(latents) == len(images) == len(indices):
            raise GocError(f"{printable(str(path))}: not of {len(indices)} samples")
        yield latents, images


def in_step(
    first: "Iterable[tuple[Tensor, Tensor]]", second: "Iterable[tuple[Tensor, Tensor]]"
) -> "Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]":
    """Batches of the same samples of two runs, whatever their shards are of, until one of them ends."""
    ours, theirs = iter(first), iter(second)
    a, b = next(ours, None), next(theirs, None)
    while a is not None and b is not None:
        count = min(len(a[0]), len(b[0]))
        yield (a[0][:count], a[1][:count]), (b[0][:count], b[1][:count])
        a = next(ours, None) if len(a[0]) == count else (a[0][count:], a[1][count:])
        b = next(theirs, None) if len(b[0]) == count else (b[0][count:], b[1][count:])


def draw_most_different(
    runs: list[tuple[Path, dict[str, Any]]], path: Path, cache_dir: Path | None = None
) -> tuple[list[int], int]:
    """Draw the samples that differ most: the first run's, the second's, and where they differ.

    Returns their indices, and how many samples were compared: the first ones, of which both runs keep latents and
    images. Raises GocError if there are none, or a run's shards are not there.
    """
    import torch

    from goc.metrics.distance import relative_distances
    from goc.sampling.images import image_grid

    sets = [samples_of(folder, result, cache_dir) for folder, result in runs]
    names = ", ".join(printable(str(folder)) for folder, _ in runs)
    compared = 0
    worst: list[tuple[float, int, Tensor, Tensor]] = []
    for (latents, images), (others, other_images) in in_step(*map(kept_samples, sets)):
        if latents.shape != others.shape or images.shape != other_images.shape:
            raise GocError(f"{names}: samples of {list(latents.shape[1:])} and {list(others.shape[1:])}")
        distances = np.nan_to_num(relative_distances(latents, others), nan=np.inf)
        worst += [
            (float(distances[i]), compared + int(i), images[i].clone(), other_images[i].clone())
            for i in np.argsort(-distances, kind="stable")[:SHOWN_SAMPLES]
        ]
        worst = sorted(worst, key=lambda sample: (-sample[0], sample[1]))[:SHOWN_SAMPLES]
        compared += len(latents)
    if not worst:
        raise GocError(f"{names}: keep no latents and images of the same samples")
    ours, theirs = (torch.stack(list(column)) for column in zip(*((a, b) for *_, a, b in worst), strict=True))
    apart = (ours.int() - theirs.int()).abs().to(torch.uint8)
    with room_for(path), replacing(path) as file:
        image_grid(torch.cat([ours, theirs, apart]), columns=len(worst)).save(file, "PNG")
    return [index for _, index, *_ in worst], compared


def main(arguments: list[str] | None = None) -> int:
    """Command line: compare two runs."""
    parser = command_parser(__doc__, "goc compare")
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, help=f"where to write {PICTURE} (default: the first run's folder)")
    parser.add_argument(
        "--cache-dir", type=Path, help="where uncached samples are kept, if not below the folder that holds the study"
    )
    options = parser.parse_args(arguments)
    load_plugins()  # whose metrics have columns
    runs = [(folder, dict(Result.load(folder).content)) for folder in options.runs]
    first, second = compared_points(runs)
    for name, folder, point in zip(("first", "second"), options.runs, (first, second), strict=True):
        print(f"{name}: {printable(str(folder))}{f' ({point.missing}: no paired errors)' if point.missing else ''}")
    print(f"\n{comparison(first, second).to_string(index=False)}\n")
    if None not in (first.compared, second.compared) and first.compared != second.compared:
        print(f"drift: over {first.compared} and {second.compared} samples, and smaller of more: not compared")
    path = (options.out or options.runs[0]) / PICTURE
    worst, compared = draw_most_different(runs, path, options.cache_dir)
    few = "" if compared == runs[0][1]["config"]["num_samples"] else f", of the first {compared}, which both keep"
    shown = ", ".join(map(str, worst))
    print(f"samples that differ most (first run, second run, difference){few}: {shown}; {path}")
    return 0
