"""The tables of docs/compatibility.md, from what the checks gave: lists of lines, of which the first is the heads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from compat.checks import Result

SITES = ("branch", "stack")


@dataclass(frozen=True)
class Row:
    """What is known of a class, or of a pipeline. results: by column."""

    name: str
    family: str
    results: dict[str, Result] = field(default_factory=dict)
    missing: str = ""  # why there are no results


def verdicts(rows: Iterable[Row], columns: Sequence[str], title: str) -> list[Sequence[str]]:
    """What was found, a line for all of a family whose results are the same."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in sorted(rows, key=lambda row: (row.family, row.name)):
        if row.results:
            shown = (row.results[column].verdict if column in row.results else "" for column in columns)
            alike.setdefault((row.family, *shown), []).append(row.name)
    lines = [(family, ", ".join(names), *shown) for (family, *shown), names in alike.items()]
    return [("family", title, *columns), *lines]


def reasons(rows: Iterable[Row], columns: Sequence[str]) -> list[Sequence[str]]:
    """A line for each result that is not right and says why, those that say the same together."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for column in columns:
            if column in row.results and (why := row.results[column].why):
                text = why.removeprefix(f"{row.name}: ").replace(row.name, "...")
                said.setdefault((column, row.results[column].verdict, code(text)), []).append(row.name)
    lines = [(*key, ", ".join(names)) for key, names in sorted(said.items())]
    return [("cache", "result", "what was said", "of"), *lines]


def untried(rows: Iterable[Row]) -> list[Sequence[str]]:
    """What there are no results of, and why."""
    lines = [(row.name, code(row.missing)) for row in sorted(rows, key=lambda row: row.name) if row.missing]
    return [("not tried", "because"), *lines]


def code(text: str) -> str:
    """A text of others' as Markdown's code, in which nothing means anything."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"
