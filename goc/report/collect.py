"""The runs below some folders: each once, whatever lies beside them, and a line for everything that is left out.

One sample has one vote. Runs of equal measurement (with its hashes), way and seed made the same samples, whatever they
are called and wherever they lie, so of several folders that hold such a run one is reported.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goc.report.results import CLAIM_FILE, FAILURE_FILE, RESULT_FILE, compared_of, load_result, reason_in, run_key
from goc.report.text import printable
from goc.system.errors import GocError

Run = tuple[Path, dict[str, Any]]
Why = tuple[str, str]  # (folder or run, why it is left out), both printable
# what differs between two runs of the same samples: times, memory, and how they were carried out
MEASURED_ANEW = ("ms_per_image", "ms_per_image_uncached", "latency_ratio", "peak_memory_bytes", "peak_cuda_bytes")
SAME = ("metrics", "distance", "converged", "cost", "inflection")  # objects of what does not
ROUNDING = 1e-4  # relative: numbers of other processors, threads or devices agree to that


@dataclass(frozen=True)
class Collected:
    """Finished runs by folder; what was skipped, by folder; and the reasons of those that failed, by name."""

    runs: list[Run]
    skipped: list[Why]
    failures: list[Why]


def find(paths: Iterable[Path]) -> Collected:
    """All runs below the paths, each once: in the order of the paths, and there by name."""
    skipped: list[Why] = []
    runs: list[Run] = []
    failures: list[Why] = []
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            skipped.append((printable(str(path)), "is no folder" if os.path.lexists(path) else "does not exist"))
        folders |= dict.fromkeys(sorted(_folders(path)))
    for folder in folders:
        name = printable(str(folder))
        if os.path.lexists(folder / FAILURE_FILE):
            try:
                failures.append((printable(folder.name), reason_in(folder)))
            except ValueError as error:
                skipped.append((name, str(error)))
        if os.path.lexists(folder / RESULT_FILE):
            try:
                runs.append((folder, load_result(folder)))
            except ValueError as error:
                skipped.append((name, str(error)))
        elif os.path.lexists(folder / CLAIM_FILE):
            skipped.append((name, "not finished"))
    kept, again = _each_once(runs)
    return Collected(kept, skipped + again, failures)


def tell(skipped: Iterable[Why]) -> None:
    """Print a line for each of what was skipped, on stderr."""
    for folder, why in skipped:
        print(f"skipped: {folder}: {why}", file=sys.stderr)


def finished(paths: Iterable[Path]) -> list[Run]:
    """All runs below the paths, each once, and a line on stderr for what was skipped; raises GocError without any."""
    collected = find(paths)
    tell(collected.skipped)
    if not collected.runs:
        raise GocError("no finished runs there")
    return collected.runs


def _folders(path: Path) -> Iterator[Path]:
    """Folders below a path in which a run has begun; links to folders are not followed."""
    for folder, folders, files in os.walk(path):
        if not {RESULT_FILE, CLAIM_FILE, FAILURE_FILE}.isdisjoint((*folders, *files)):
            yield Path(folder).resolve()


def _each_once(runs: Sequence[Run]) -> tuple[list[Run], list[Why]]:
    """The runs, one for each measurement, way and seed, and why the others are left out.

    Those count first that are compared over the most samples. Of equal ones the one that knows most counts, and of
    those the first. Where they differ it is the one whose result was written last.
    """
    same: dict[str, list[Run]] = defaultdict(list)
    for folder, result in runs:
        same[run_key(result)].append((folder, result))
    kept, again = [], []
    for copies in same.values():
        most = max(_compared(result) for _, result in copies)
        fullest = [run for run in copies if _compared(run[1]) == most]
        differ = any(_difference(fullest[0][1], result) for _, result in fullest[1:])
        folder, result = max(fullest, key=_written if differ else _known)
        kept.append((folder, result))
        for other, theirs in copies:
            if other == folder:
                continue
            why = f"the same run as {printable(str(folder))}"
            if _compared(theirs) != most:
                why += ", whose distances are over more samples"
            elif difference := _difference(theirs, result):
                why = f"another result of {why}, which was written last and counts: {difference}"
            again.append((printable(str(other)), why))
    return kept, again


def _compared(result: dict[str, Any]) -> tuple[int, int]:
    """Over how many samples a run's distances are: to the uncached ones, and to the converged solution."""
    return compared_of(result) or 0, (result.get("converged") or {}).get("samples") or 0


def _written(run: Run) -> int:
    return (run[0] / RESULT_FILE).stat().st_mtime_ns


def _known(run: Run) -> int:
    return sum(value is not None for part in SAME for value in (run[1].get(part) or {}).values())


def _difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The first number in which two results of the same samples differ; empty if there is none that both know."""
    for part in SAME:
        ours, theirs = first.get(part) or {}, second.get(part) or {}
        for name in ours:
            a, b = ours[name], theirs.get(name)
            if name not in MEASURED_ANEW and a is not None and b is not None and not _equal(a, b):
                shown = (f"{value:.6g}" if isinstance(value, int | float) else "another list" for value in (a, b))
                return "{}.{}={} here, {} there".format(part, printable(name), *shown)
    return ""


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if a is None or b is None or isinstance(a, list) or isinstance(b, list):
        return a is b
    return abs(a - b) <= ROUNDING * max(abs(a), abs(b))
