"""One command that tells how this project does on a GPU: whether it is right there, and how fast. Under 8 minutes.

    goc check             on the first CUDA GPU; tables and index.html in outputs/gpu_check/
    goc check --tiny      the same on the CPU with small models, in less than a minute: does it run at all
    goc check --only oracles steps-bf16-32
    goc check --fresh     nothing of a check that was stopped is gone on with

It checks the authors' trajectories in fp32 (oracles), the kernel of a cached step (kernels), that one and two workers
make the same bytes (workers), that CUDA graphs have the bits of steps without (graphs), and that trainings have the
CPU's losses (training). It measures full and cached steps of DiT-XL/2-256 with random weights (steps-...), beside a
textbook implementation, peers and the roofline, what those steps consist of (profile), caches in FLUX's and Wan's
transformers (transformers), and images a second from noise to metrics (pipeline). Each part is a process of its own
with a limit of time: what goes wrong in one is a line of the page. The exit code is 0 if all parts that were asked for
ran and passed, or lack something on this machine.

A check that was stopped, or in which a part failed, goes on when the same command is given again: parts that passed
are kept, until all have, for the same code, setting and machine.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from goc.check import beside, isolated, oracles, page, verdict
from goc.check.kept import GOOD, Kept, check_key
from goc.check.parts import parts_of
from goc.check.setting import FULL, TINY, Part, Report, Setting, Table
from goc.check.step_table import machine
from goc.check.verdict import Summary
from goc.system.arguments import command_parser
from goc.system.errors import ConfigError
from goc.system.files import write_atomically

STATES = ("passed", "failed", "not started", "skipped")
TOTAL_S = 450.0  # of all parts; what is around them fits into the half minute that is left of the 8
LEAST_S = 10.0  # with less than this left, a part is not started


def chosen(parts: Sequence[Part], names: Sequence[str] | None) -> list[Part]:
    """The parts that are named, in their own order; None: all. Raises ConfigError for other names."""
    known = [part.name for part in parts]
    for name in names or []:
        if name not in known:
            raise ConfigError(f"--only {name}: must be of {', '.join(known)}")
    return [part for part in parts if names is None or part.name in names]


def perform(
    parts: Sequence[Part], kept: Kept, before: Mapping[str, Report], start: isolated.Start, total: float = TOTAL_S
) -> Iterator[Report]:
    """Run the parts one after the other, say how each went, and write its table as soon as it is there.

    kept: where those that pass are put. before: parts of an unfinished check, which are not run again. total: seconds
    for all of them together; parts for which too few are left are not started.
    """
    deadline = time.monotonic() + total
    for part in parts:
        left = deadline - time.monotonic()
        if part.name in before:
            report = before[part.name]
        elif left < min(LEAST_S, part.seconds):
            said = f"not started: the {total:.0f} s for all parts are spent; the same command goes on with it"
            report = Report(part.name, 0.0, error=said, started=False)
        else:
            ended = isolated.run(part.run, min(part.seconds, left), kept.folder / f"{part.name}.log", start)
            report = Report(part.name, ended.seconds, ended.result, ended.error)
        if report.outcome and not report.outcome.missing:
            write_table(kept.folder, report.outcome.table)
        kept.keep(report)
        took = "kept" if report.kept else f"{report.seconds:.0f} s"
        print(f"{part.name:<24}{report.state:<12}{took:>6}  {' '.join(report.says)}", flush=True)
        yield report


def write_table(folder: Path, table: Table) -> None:
    """NAME.csv, with all columns."""
    write_atomically(folder / f"{table.name}.csv", table.frame.to_csv(index=False).encode())


def show(options: argparse.Namespace, command: str, setting: Setting, reports: Sequence[Report]) -> Summary:
    """Write the page and the tables over all cases that were measured; returns what the page begins with."""
    outcomes = {report.name: report.outcome for report in reports if report.outcome}
    measured = {case: outcomes[case.name].table.frame for case in setting.cases if case.name in outcomes}
    extra = [verdict.rates(measured), beside.roofline(setting, measured)]
    known = [part.name for part in parts_of(setting, [])]
    rated, roofline = (verdict.records(table.frame) for table in extra)
    first = verdict.summary(setting, reports, rated, roofline, known)
    if measured:
        extra.append(beside.memory(measured))
        for table in extra:
            write_table(options.out, table)
    page.write(options.out, first, reports, extra if measured else [], machine(), command, setting.is_tiny)
    return first


def clear(folder: Path, kept: Iterable[str]) -> None:
    """Make the folder, and take away what an earlier check left in it: the page and the tables are of one check.

    kept: parts of an unfinished one, whose logs stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {part.name for setting in (FULL, TINY) for part in parts_of(setting, [])}
    old = {f"{name}.csv" for name in {*names, "rates", "roofline", "memory"}} | {
        f"{name}.log" for name in names - set(kept)
    }
    for name in sorted(old | {"index.html", "tables.md"}):
        (folder / name).unlink(missing_ok=True)


def run(options: argparse.Namespace, command: str) -> int:
    """Everything; returns the exit code. Raises ConfigError without a GPU, and for options that do not fit."""
    setting = TINY if options.tiny else FULL
    if options.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise ConfigError("no CUDA GPU is visible: start this where there is one, or give --tiny for a CPU")
    folders = options.oracles or oracles.FOLDERS
    parts = chosen(parts_of(setting, folders), options.only)
    names = [part.name for part in parts]
    kept = Kept(options.out, check_key(setting, folders))
    if options.fresh:
        kept.forget(part.name for part in parts_of(setting, folders))
    before = kept.reports(names)
    clear(options.out, before)
    reports: list[Report] = []
    for report in perform(parts, kept, before, "fork" if setting.is_tiny else "spawn"):
        reports.append(report)
        waiting = [Report(name, 0.0, error="not reached", started=False) for name in names[len(reports) :]]
        first = show(options, command, setting, [*reports, *waiting])
    states = [report.state for report in reports]
    summary = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    for answer in first.answers:
        print(f"{answer.question} {answer.short}")
    print(f"{summary}; written to {options.out / 'index.html'}")
    if set(states) <= set(GOOD):
        kept.forget(names)
        return 0
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_parser(__doc__, "goc check")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check"), help="default outputs/gpu_check")
    parser.add_argument("--tiny", action="store_true", help="on the CPU with small models; its numbers mean nothing")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    parser.add_argument("--fresh", action="store_true", help="run all parts, also those that a stopped check has kept")
    parser.add_argument("--oracles", type=Path, action="append", metavar="DIR", help="default those in ../shared")
    words = list(sys.argv[1:] if argv is None else argv)
    return run(parser.parse_args(words), shlex.join(["goc", "check", *words]))
