"""One command that tells how this project does on a GPU: whether it is right there, and how fast. Under 8 minutes.

    goc check             on the first CUDA GPU; tables and index.html in outputs/gpu_check/
    goc check --tiny      the same on the CPU with small models, in half a minute: does it run at all
    goc check --only oracles steps-bf16-8

It checks the authors' trajectories in fp32 (oracles) and that one and two workers make the same bytes (workers), and
measures full and cached steps of DiT-XL/2-256 with random weights (steps-...),
beside a textbook implementation, peers and the roofline. Each part is a process of its own with a limit of time: what
goes wrong in one is a line of the page. The exit code is 0 if all parts that were asked for ran and passed.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from goc.check import (
    beside,
    isolated,
    kernels,
    oracles,
    page,
    step_profile,
    steps,
    training,
    transformer_steps,
    workers,
)
from goc.check.page import Report
from goc.check.setting import FULL, TINY, Part, Setting, Table
from goc.check.step_table import machine
from goc.system.errors import ConfigError
from goc.system.files import write_atomically

STATES = ("passed", "failed", "not started", "skipped")
TOTAL_S = 450.0  # of all parts; what is around them fits into the half minute that is left of the 8
LEAST_S = 10.0  # with less than this left, a part is not started


def parts_of(setting: Setting, folders: Sequence[Path]) -> list[Part]:
    """All parts, the most telling first, as time may run out."""
    limits = {False: 75.0, True: 120.0}  # seconds of a case, without and with compiling
    return [
        Part("oracles", 75, partial(oracles.check, setting, folders)),
        Part("kernels", 60, partial(kernels.check, setting)),
        Part("workers", 90, partial(workers.check, setting)),
        Part("profile", 120, partial(step_profile.check, setting)),
        Part("transformers", 90, partial(transformer_steps.check, setting)),
        Part("training", 75, partial(training.check, setting)),
        *(Part(case.name, limits[case.compiled], partial(steps.check, setting, case)) for case in setting.cases),
    ]


def chosen(parts: Sequence[Part], names: Sequence[str] | None) -> list[Part]:
    """The parts that are named, in their own order; None: all. Raises ConfigError for other names."""
    known = [part.name for part in parts]
    for name in names or []:
        if name not in known:
            raise ConfigError(f"--only {name}: must be of {', '.join(known)}")
    return [part for part in parts if names is None or part.name in names]


def perform(parts: Sequence[Part], folder: Path, start: isolated.Start, total: float = TOTAL_S) -> list[Report]:
    """Run the parts one after the other, say how each went, and write its table as soon as it is there.

    total: seconds for all of them together; parts for which too few are left are skipped.
    """
    deadline = time.monotonic() + total
    reports = []
    for part in parts:
        left = deadline - time.monotonic()
        if left < min(LEAST_S, part.seconds):
            report = Report(
                part.name, 0.0, error=f"not started: the {total:.0f} s for all parts are spent", started=False
            )
        else:
            ended = isolated.run(part.run, min(part.seconds, left), folder / f"{part.name}.log", start)
            report = Report(part.name, ended.seconds, ended.result, ended.error)
        if report.outcome and not report.outcome.missing:
            write_table(folder, report.outcome.table)
        print(f"{part.name:<24}{report.state:<12}{report.seconds:4.0f} s  {'; '.join(report.says)}", flush=True)
        reports.append(report)
    return reports


def write_table(folder: Path, table: Table) -> None:
    """NAME.csv, with all columns."""
    write_atomically(folder / f"{table.name}.csv", table.frame.to_csv(index=False).encode())


def compared(setting: Setting, reports: Sequence[Report]) -> list[Table]:
    """The tables over all cases that were measured."""
    found = {report.name: report.outcome.table.frame for report in reports if report.outcome}
    measured = {case: found[case.name] for case in setting.cases if case.name in found}
    return [beside.roofline(setting, measured), beside.memory(measured)] if measured else []


def clear(folder: Path) -> None:
    """Make the folder, and take away what an earlier check left in it: the page and the tables are of one check."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (part.name for setting in (FULL, TINY) for part in parts_of(setting, []))
    for name in [*names, "roofline", "memory"]:
        for ending in ("csv", "log"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)


def run(options: argparse.Namespace, command: str) -> int:
    """Everything; returns the exit code. Raises ConfigError without a GPU, and for options that do not fit."""
    setting = TINY if options.tiny else FULL
    if options.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise ConfigError("no CUDA GPU is visible: start this where there is one, or give --tiny for a CPU")
    parts = chosen(parts_of(setting, options.oracles or oracles.FOLDERS), options.only)
    clear(options.out)
    reports = perform(parts, options.out, "fork" if setting.is_tiny else "spawn")
    extra = compared(setting, reports)
    for table in extra:
        write_table(options.out, table)
    page.write(options.out, reports, extra, machine(), command, setting.is_tiny)
    states = [report.state for report in reports]
    summary = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    print(f"{summary}; written to {options.out / 'index.html'}")
    return 0 if set(states) <= {"passed", "skipped"} else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="goc check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check"), help="default outputs/gpu_check")
    parser.add_argument("--tiny", action="store_true", help="on the CPU with small models; its numbers mean nothing")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    parser.add_argument("--oracles", type=Path, action="append", metavar="DIR", help="default those in ../shared")
    words = list(sys.argv[1:] if argv is None else argv)
    return run(parser.parse_args(words), shlex.join(["goc", "check", *words]))
