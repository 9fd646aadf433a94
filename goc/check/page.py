"""index.html of goc check: what a stranger asks first, how each part went, every table; and the same as Markdown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from goc.check.setting import Report, Table
from goc.check.verdict import Summary
from goc.system.files import resolve, write_atomically

TEMPLATE = "asset:report/gpu_check.html"
LONG = 30  # rows
BAR = "of_bound"  # the column that is drawn as a bar, too


def write(
    folder: Path,
    first: Summary,
    reports: Sequence[Report],
    extra: Sequence[Table],
    machine: str,
    command: str,
    tiny: bool,
) -> None:
    """The page and tables.md; extra: tables that are no part's own, shown first. Long ones come last."""
    tables = [*extra, *(report.outcome.table for report in reports if report.outcome and not report.outcome.missing)]
    tables.sort(key=lambda table: len(table.frame) > LONG)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(resolve(TEMPLATE).read_text(encoding="utf-8")).render(
        first=first,
        reports=reports,
        tables=[_shown(table) for table in tables],
        machine=machine,
        command=command,
        tiny=tiny,
    )
    write_atomically(folder / "index.html", page.encode())
    parts = [f"`{command}`, {machine}", *_first(first), *(_markdown(table) for table in tables)]
    write_atomically(folder / "tables.md", ("\n\n".join(parts) + "\n").encode())


def _first(first: Summary) -> Iterator[str]:
    """What the page begins with, as Markdown."""
    for answer in first.answers:
        yield "\n".join([f"**{answer.question} {answer.short}.**", "", *(f"- {line}" for line in answer.lines)])
    if first.advice:
        yield "\n".join(f"- {one.setting}: {one.use}. {one.why}" for one in first.advice)
    if first.left_out:
        yield "\n".join(["Not run:", "", *(f"- {line}" for line in first.left_out)])


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
