"""Prints docs/imagenet.md's table of the field's published numbers: `python scripts/published.py`."""

import re

from goc.report.published import Published, read_published

HEADS = ("method", "settings", "cached", "its TFLOPs", "our GMACs", "FID", "sFID", "IS", "drift", "source")
GROUP = re.compile(r"\b[a-z]+\.(?=[a-z])")  # "schedule." and the like before a setting
SHOWN = ("fid", "sfid", "is", "drift")


def cells(row: Published) -> tuple[str, ...]:
    """A row's texts. A cost that its source gives as a speed-up in FLOPs is told as one."""
    said = "" if row.speedup is None else f"{row.speedup:g}x"
    flops = said if row.flops_t is None else f"{row.flops_t:.2f}"
    own = "" if row.cells is None or row.gmacs is None else f"{row.gmacs:.0f}"
    cached = f"{row.cached:.0%}" if row.cached else ""
    numbers = (f"{row.numbers[name]:g}" if name in row.numbers else "" for name in SHOWN)
    source = row.source.split(",")[0] + ("" if row.is_first_hand else " *")
    return (f"`{row.method}`", GROUP.sub("", row.settings), cached, flops, own, *numbers, source)


def listing() -> str:
    """The rows as Markdown, a table for each model, sampler and number of steps, and in it method by method."""
    kinds: dict[tuple[str, str, int, int], dict[str, list[Published]]] = {}
    for row in read_published():
        methods = kinds.setdefault((row.model, row.sampler, row.steps, row.samples), {})
        methods.setdefault(row.method, []).append(row)
    parts = []
    for (model, sampler, steps, samples), methods in kinds.items():
        lines = [cells(row) for own in methods.values() for row in own]
        shown = [place for place, head in enumerate(HEADS) if head == "source" or any(line[place] for line in lines)]
        table = [HEADS, ["---"] * len(HEADS), *lines]
        body = "\n".join("| " + " | ".join(line[place] for place in shown) + " |" for line in table)
        parts.append(f"**{model}, {sampler} with {steps} steps, {samples:,} samples**\n\n{body}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(listing())
