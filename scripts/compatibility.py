"""Tries the caches on every diffusion transformer and pipeline of the installed diffusers, tiny and random.

    python scripts/compatibility.py                      all of them; writes docs/compatibility.md and its tables
    python scripts/compatibility.py FluxTransformer2DModel WanPipeline   these alone; prints their results
    python scripts/compatibility.py --no-peers           without the caches of diffusers and cache-dit

Nothing is downloaded: the models are built from configs (scripts/compat/zoo), two blocks deep and 16 to 32 channels
wide.
Its exit status is 1 if a result is neither right nor refused when the cache is enabled.
"""

import csv
import json
import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# isort: split  (goc first: it lets torchvision, which diffusers imports, be imported)
import diffusers
import torch
from compat.checks import REFUSED, RIGHT, OfClass, check_site, line
from compat.loop import Loop
from compat.peers import ABSENT, PEERS, check_peer
from compat.pipes import all_pipelines, check_pipeline, class_of, family_of, transformer_class
from compat.special import TOO_LARGE
from compat.table import SITES, Row, reasons, untried, verdicts
from compat.tiny import Ask, classes
from compat.zoo import ZOO

from goc.system.arguments import command_parser
from goc.system.command import run_command
from goc.system.errors import GocError

DOCS = Path(__file__).parent.parent / "docs"
OTHERS: list[dict[str, Any]] = [{"ask": Ask(tokens=7)}, {"ask": Ask(batch=2)}, {"ask": Ask(size=12)}, {"steps": 8}]
ABOUT = """# Which transformers and pipelines of diffusers the caches are right in

**{classes} of {all_classes} classes and {pipelines} of {all_pipelines} pipelines are right at one site at least**,
of every diffusion transformer and every pipeline with one that diffusers {version} has: tiny and random, on a CPU
(`python scripts/compatibility.py`).

- **right**: a cache that caches nothing changes no bit; `reuse` at `cache_ratio=0.5` computes half of the calls of its
  modules, and changes the result; in a loop whose steps all get the same input (of classes; with and without a
  ControlNet's residuals) it gives what computing gives, to 1e-4; `goc` and `taylorseer` are finite; calls with other
  steps, sizes, batches and texts do not depend on those before; an error in a block leaves nothing behind;
  `disable_cache` gives the bits from before.
- **refused**: in one line when the cache is enabled. For **wrong**, **fails** and **refused in the call**, what was
  said is in a table of its own.
- diffusers' and cache-dit's caches are asked what holds for them: that they cache something, are right for the same
  input, run in other calls and can be taken out. "{absent}": the class has no `enable_cache`.

## Classes

[compatibility-classes.csv](tables/compatibility-classes.csv)

{{{{ read_csv('tables/compatibility-classes.csv') }}}}

## Pipelines

[compatibility-pipelines.csv](tables/compatibility-pipelines.csv)

{{{{ read_csv('tables/compatibility-pipelines.csv') }}}}

## What was said

[compatibility-reasons.csv](tables/compatibility-reasons.csv)

{{{{ read_csv('tables/compatibility-reasons.csv') }}}}

## Not tried

[compatibility-untried.csv](tables/compatibility-untried.csv)

{{{{ read_csv('tables/compatibility-untried.csv') }}}}
"""


def class_row(name: str, peers: bool) -> Row:
    """The results of a transformer class."""
    tiny = ZOO.get(name)
    if tiny is None:
        return Row(name, "new", missing="no tiny model yet")
    torch._dynamo.reset()
    try:
        loop = Loop(tiny)
        loop()
    except Exception as error:  # of another version of diffusers, perhaps
        return Row(name, tiny.family, missing=f"its tiny model cannot be built or called: {line(error)}")
    results = {site: check_site(OfClass(loop, OTHERS), site) for site in SITES}
    if peers:
        results |= {peer: check_peer(peer, lambda: Loop(tiny), OTHERS) for peer in PEERS}
    return Row(name, tiny.family, results)


def pipeline_row(name: str) -> Row:
    """The results of a pipeline class."""
    if transformer_class(class_of(name)) not in ZOO:
        return Row(name, family_of(name), missing="no tiny model of its transformer yet")
    if name in TOO_LARGE:
        return Row(name, family_of(name), missing=TOO_LARGE[name])
    try:
        return Row(name, family_of(name), check_pipeline(name, SITES))
    except Exception as error:
        return Row(name, family_of(name), missing=f"no tiny pipeline: {line(error)}")


def row(job: tuple[str, bool]) -> Row:
    """The results of whatever has this name."""
    name, peers = job
    return class_row(name, peers) if name in classes() else pipeline_row(name)


def quiet() -> None:
    """In every process: one thread, and no lines but the results."""
    from diffusers.utils import logging as of_diffusers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    of_diffusers.set_verbosity_error()
    of_diffusers.disable_progress_bar()


def rows(names: Sequence[str], peers: bool, workers: int) -> Iterator[Row]:
    """The results, as they come."""
    with multiprocessing.get_context("spawn").Pool(workers, quiet) as pool:
        yield from pool.imap_unordered(row, [(name, peers) for name in names])
        pool.close()
        pool.join()


def right_somewhere(of: Sequence[Row]) -> int:
    """How many are right at one site at least."""
    return sum(any(one.results[site].verdict == RIGHT for site in SITES if site in one.results) for one in of)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_parser(__doc__)
    parser.add_argument("names", nargs="*", help="classes or pipelines; all of them without any")
    parser.add_argument("--no-peers", action="store_true", help="only the caches of this project")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: the cores)")
    parser.add_argument("--out", type=Path, help="the results as JSON")
    options = parser.parse_args(arguments)
    known = [*classes(), *all_pipelines()]
    for name in options.names:
        if name not in known:
            raise GocError(f"{name}: diffusers {diffusers.__version__} has no such transformer or pipeline")
    results = []
    for one in rows(options.names or known, not options.no_peers, options.workers):
        results.append(one)
        for column, result in one.results.items():
            print(f"{one.name}, {column}: {result.verdict} {result.why}".rstrip(), flush=True)
        if one.missing:
            print(f"{one.name}: {one.missing}", flush=True)
    if options.out is not None:
        options.out.write_text(
            json.dumps([asdict(one) for one in sorted(results, key=lambda one: one.name)], indent=1), encoding="utf-8"
        )
    if not options.names and not options.no_peers:
        write(results)
    ours = [one.results[site] for one in results for site in SITES if site in one.results]
    return int(any(result.verdict not in (RIGHT, REFUSED) for result in ours))


def write(results: Sequence[Row]) -> None:
    """The page and its tables."""
    of_classes = [one for one in results if one.name in classes()]
    of_pipelines = [one for one in results if one.name not in classes()]
    about = ABOUT.format(
        version=diffusers.__version__, classes=right_somewhere(of_classes), all_classes=len(of_classes),
        pipelines=right_somewhere(of_pipelines), all_pipelines=len(of_pipelines), absent=ABSENT,
    )  # fmt: skip
    (DOCS / "compatibility.md").write_text(about, encoding="utf-8")
    tables = {
        "classes": verdicts(of_classes, (*SITES, *PEERS), "classes"),
        "pipelines": verdicts(of_pipelines, SITES, "pipelines"),
        "reasons": reasons(results, (*SITES, *PEERS)),
        "untried": untried(results),
    }
    for name, lines in tables.items():
        with (DOCS / "tables" / f"compatibility-{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
