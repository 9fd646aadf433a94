"""index.html of scripts/gpu_check.py: how each part went, then every table; and the tables as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from goc.check.setting import Outcome, Table
from goc.system.files import resolve, write_atomically

TEMPLATE = "asset:report/gpu_check.html"
LONG = 30  # rows
BAR = "of_bound"  # the column that is drawn as a bar, too


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


def write(
    folder: Path, reports: Sequence[Report], extra: Sequence[Table], machine: str, command: str, tiny: bool
) -> None:
    """The page and tables.md; extra: tables that are no part's own, shown first. Long ones come last."""
    tables = [*extra, *(report.outcome.table for report in reports if report.outcome and not report.outcome.missing)]
    tables.sort(key=lambda table: len(table.frame) > LONG)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(resolve(TEMPLATE).read_text(encoding="utf-8")).render(
        reports=reports,
        tables=[_shown(table) for table in tables],
        machine=machine,
        command=command,
        tiny=tiny,
    )
    write_atomically(folder / "index.html", page.encode())
    parts = [f"`{command}`, {machine}", *(_markdown(table) for table in tables)]
    write_atomically(folder / "tables.md", ("\n\n".join(parts) + "\n").encode())


def cell(value: Any) -> str:
    """A value as people read it; nothing for one that is missing."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool):
        return "yes" if value else "no"
    return f"{value:.4g}"


def _shown(table: Table) -> dict[str, Any]:
    rows = [[(cell(row[name]), _bar(name, row[name])) for name in table.columns] for _, row in table.frame.iterrows()]
    return {"name": table.name, "title": table.title, "reading": table.reading, "rows": rows,
            "headings": list(table.columns.values())}  # fmt: skip


def _bar(column: str, value: Any) -> float | None:
    """Length of a cell's bar in percent, or None: it has none."""
    return min(100.0, 100.0 * value) if column == BAR and not pd.isna(value) else None


def _markdown(table: Table) -> str:
    frame = table.frame[list(table.columns)].map(cell).set_axis(list(table.columns.values()), axis=1)
    return f"### {table.title}\n\n{table.reading}\n\n{frame.to_markdown(index=False, disable_numparse=True)}"
