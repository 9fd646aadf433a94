"""docs/compatibility.md, from what the checks gave."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from compat.checks import RIGHT, Result

SITES = ("branch", "stack")


@dataclass(frozen=True)
class Row:
    """What is known of a class, or of a pipeline. results: by column."""

    name: str
    family: str
    results: dict[str, Result] = field(default_factory=dict)
    missing: str = ""  # why there are no results

    @property
    def group(self) -> str:
        """Where it stands in the table."""
        verdicts = [self.results[site].verdict for site in SITES if site in self.results]
        if not verdicts:
            return "Not tried"
        if set(verdicts) == {RIGHT}:
            return "Right at both sites"
        return f"{verdicts[0].capitalize()} at branch, {verdicts[-1]} at stack"


def table(rows: Sequence[Row], columns: Sequence[str], title: str) -> list[str]:
    """The lines of a table, the largest group first, a line for all of a family whose results are the same."""
    lines = [f"## {title}", ""]
    sizes = Counter(row.group for row in rows)
    for group, count in sizes.most_common():
        members = sorted((row for row in rows if row.group == group), key=lambda row: (row.family, row.name))
        lines += [f"### {group}: {count}", ""]
        if group == "Not tried":
            lines += [f"- {row.name}: {row.missing}" for row in members] + [""]
            continue
        lines += ["| " + " | ".join(("family", title.lower(), *columns)) + " |", "|" + "---|" * (len(columns) + 2)]
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in members:
            shown = tuple(row.results[column].verdict if column in row.results else "" for column in columns)
            alike.setdefault((row.family, *shown), []).append(row.name)
        lines += [
            f"| {family} | {', '.join(names)} | {' | '.join(shown)} |" for (family, *shown), names in alike.items()
        ]
        lines.append("")
    return lines + reasons(rows, columns)


def reasons(rows: Iterable[Row], columns: Sequence[str]) -> list[str]:
    """One line for each result that is not right and says why, those that say the same together."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for column in columns:
            if column in row.results and (why := row.results[column].why):
                text = why.removeprefix(f"{row.name}: ").replace(row.name, "...").replace("|", "/")
                said.setdefault(f"{column}, {row.results[column].verdict}: {text}", []).append(row.name)
    if not said:
        return []
    return ["What was said:", "", *(f"- {text} ({', '.join(names)})" for text, names in sorted(said.items())), ""]
