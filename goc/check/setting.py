"""What a part of goc check is told, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd


def images(count: int) -> str:
    """A number of images, in words."""
    return f"{count} image{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Case:
    """One setting in which steps are timed."""

    precision: str
    batch: int  # images; with guidance twice as many sequences
    compiled: bool = False

    @property
    def name(self) -> str:
        """Of its table's file."""
        return f"steps-{self.precision}{'-compiled' if self.compiled else ''}-{self.batch}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.precision}{', compiled' if self.compiled else ''}, {images(self.batch)}"


@dataclass(frozen=True)
class Setting:
    """What is measured on which device; `FULL` or `TINY`."""

    device: str  # as run.py's device=; named with its number, so that two workers share it
    model: str
    image_size: int
    cases: tuple[Case, ...]  # in this order, the most telling first, as time may run out
    steps: int  # of a timed trajectory
    repeats: int
    rows: tuple[str, ...] | None  # of the first case's table of steps; None: all
    few_rows: tuple[str, ...]  # of the others'
    worker_precisions: tuple[str, ...]
    profiled: tuple[Case, ...]
    cfg_scale: float = 1.5

    @property
    def is_tiny(self) -> bool:
        """Whether this only shows that everything runs."""
        return self.device == "cpu"


FEW_ROWS = ("none", "reuse 50 %", "goc 50 %", "reuse stack 50 %", "goc stack 50 %", "textbook goc 50 %")

FULL = Setting(
    device="cuda:0",
    model="DiT-XL/2",
    image_size=256,
    cases=(
        Case("bf16", 32),
        Case("bf16", 32, compiled=True),
        Case("tf32", 32),
        Case("bf16", 8),
    ),
    steps=8,
    repeats=2,
    rows=None,
    few_rows=FEW_ROWS,
    worker_precisions=("fp32", "bf16"),
    profiled=(Case("bf16", 32), Case("bf16", 32, compiled=True)),
)

TINY = Setting(
    device="cpu",
    model="DiT-S/8",
    image_size=64,
    cases=(Case("bf16", 1), Case("bf16", 1, compiled=True)),
    steps=4,
    repeats=1,
    rows=("none", "reuse 50 %", "goc 50 %", "goc stack 50 %", "diffusers first block 50 %"),
    few_rows=("none", "reuse 50 %", "goc 50 %", "reuse stack 50 %"),
    worker_precisions=("fp32",),
    profiled=(Case("bf16", 1),),
)


@dataclass(frozen=True)
class Table:
    """One table of the page.

    Args:
        name: of its file, without ending.
        title: what it shows. reading: how to read it: units, which way is better, what was held equal.
        columns: those that the page shows, and their headings; the file has all.
    """

    name: str
    title: str
    reading: str
    frame: pd.DataFrame
    columns: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """What a part found: its table, what of it is not as it must be, and what it says in a sentence.

    missing: what this machine lacks for the part, and how to have it; empty: nothing.
    """

    table: Table
    failures: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    missing: str = ""


@dataclass(frozen=True)
class Report:
    """How one part went.

    Args:
        error: why it has no outcome. started: whether there was time for it. kept: from a check before, which this one
            goes on with.
    """

    name: str
    seconds: float
    outcome: Outcome | None = None
    error: str = ""
    started: bool = True
    kept: bool = False

    @property
    def state(self) -> str:
        """For people; `skipped` is what this machine lacks something for."""
        if not self.started:
            return "not started"
        if self.outcome and self.outcome.missing:
            return "skipped"
        return "passed" if self.outcome and not self.outcome.failures else "failed"

    @property
    def says(self) -> list[str]:
        """Its error, what is wrong, and what was found."""
        said = [self.error]
        if self.outcome is not None:
            said += [self.outcome.missing, *self.outcome.failures, *self.outcome.findings]
        return [line for line in said if line]


@dataclass(frozen=True)
class Part:
    """A part, which runs in a process of its own for at most some seconds."""

    name: str
    seconds: float
    run: Callable[[], Outcome]
