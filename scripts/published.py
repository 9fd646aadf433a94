"""Writes docs/published.md and its tables of the field's published numbers: `python scripts/published.py`."""

import csv
import re
from pathlib import Path

from goc.report.published import Published, read_published

DOCS = Path(__file__).parent.parent / "docs"
ABOUT = """# The field's published numbers

`experiments/published.csv` holds what papers report on DiT and SiT; the tables below are its rows (`python
scripts/published.py`). How to repeat them: [imagenet.md](imagenet.md#repeating-the-fields-numbers). What they show
before anything is run:

- **The uncached model disagrees with itself.** DiT-XL/2 with 50 DDIM steps is published as 2.18, 2.264, 2.32 and 2.43,
  a spread of 0.25. TaylorSeer's N = 3 loses 0.02, and ChebBooster's and RFC's gains over TaylorSeer at N = 4 are 0.14
  and 0.03: numbers of different papers do not tell methods apart; those beside one uncached run may.
- **Costs agree.** Where a method is here, twice our GMACs is the paper's TFLOPs within 0.5 % (a test holds it): papers
  count 2 FLOPs a multiply-add, and both halves of guidance. Of ToCa with N = 3 and its code's ratio of 0.07 that is all
  four digits of 10.23, tokens counted one by one. DuCa's ratio of 0.05 we take from its cost: of 0.03, 0.04, ... 0.07
  it alone gives 2.48x.
- **Most was seen only quoted.** A `*` marks rows that we read in another text's account of the paper. Of the others
  the FID (or drift) was read in the paper or its authors' repository, the other columns perhaps not. Quoted tables have
  copied cells: two papers give the uncached model the same IS of 241.25, and FORA 229.02, beside different FIDs.

Settings are those of the method's groups (`schedule.interval=3` is N = 3; `predictor.order=3` is O = 3), or the paper's
own words where there is none that repeats them. `drift` is the FID to the uncached run's images: RFC's "FID to the
full-compute images", and HiCache++'s with paired noise. 50,000 samples are the protocol; of RFC's, ChebBooster's and
ClusCa's rows that is assumed. What a paper says of its cost as a speed-up in FLOPs stands as one (4.53x).
"""
HEADS = ("method", "settings", "cached", "its TFLOPs", "our GMACs", "FID", "sFID", "IS", "drift", "source")
GROUP = re.compile(r"\b[a-z]+\.(?=[a-z])")  # "schedule." and the like before a setting
SHOWN = ("fid", "sfid", "is", "drift")


def cells(row: Published) -> tuple[str, ...]:
    """A row's texts. A cost that its source gives as a speed-up in FLOPs is told as one."""
    said = "" if row.speedup is None else f"{row.speedup:g}x"
    flops = said if row.flops_t is None else f"{row.flops_t:.2f}"
    gmacs = "" if row.cells is None or row.gmacs is None else f"{row.gmacs:.0f}"
    cached = f"{row.cached:.0%}" if row.cached else ""
    numbers = (f"{row.numbers[name]:g}" if name in row.numbers else "" for name in SHOWN)
    source = row.source.split(",")[0] + ("" if row.is_first_hand else " *")
    return (f"`{row.method}`", GROUP.sub("", row.settings), cached, flops, gmacs, *numbers, source)


def tables() -> dict[str, list[tuple[str, ...]]]:
    """Lines by title, a table for each model, sampler and number of steps, and in it method by method."""
    kinds: dict[str, dict[str, list[Published]]] = {}
    for row in read_published():
        title = f"{row.model}, {row.sampler} with {row.steps} steps, {row.samples:,} samples"
        kinds.setdefault(title, {}).setdefault(row.method, []).append(row)
    by_title = {}
    for title, methods in kinds.items():
        lines = [cells(row) for published in methods.values() for row in published]
        shown = [place for place, head in enumerate(HEADS) if head == "source" or any(line[place] for line in lines)]
        by_title[title] = [tuple(line[place] for place in shown) for line in (HEADS, *lines)]
    return by_title


def write(docs: Path) -> None:
    """The page, and a CSV file for each of its tables."""
    parts = [ABOUT]
    for title, lines in tables().items():
        words = re.sub(r"with|steps|samples|,", "", title.lower())
        name = "-".join(["published", *re.findall("[a-z0-9]+", words)]) + ".csv"
        parts += [f"## {title}\n", f"[{name}](tables/{name})\n", f"{{{{ read_csv('tables/{name}') }}}}\n"]
        with (docs / "tables" / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    (docs / "published.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    write(DOCS)
