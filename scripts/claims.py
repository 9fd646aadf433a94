"""What our own caches reach beside the best published one: `python scripts/claims.py outputs/digits_ratios`.

Reads a finished study (experiments/digits_ratios.yaml, or one like it) and prints, for each number of steps and of
computed evaluations, the mean distance of the samples to the target in shares of the best published cache's of at most
as many evaluations: for each model, and as a mean over models with the standard deviation over them. A share above what
was claimed is marked as a miss.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from goc.report.frame import over_seeds, table
from goc.report.results import collect

OURS = ("goc_anchored", "dynamic", "searched", "searched_goc", "searched_learned")
DISTANCE = "relative_l2_mean"
# cache ratio -> (rival, the largest share that searched_learned may have)
CLAIMS = {0.5: ("goc", 2 / 3), 0.65: ("published", 0.5), 0.75: ("published", 0.5), 0.8: ("published", 0.5)}
# of 20 steps: with so many evaluations as close as the rival with so many
EQUAL_AT_20 = ((5, "published", 7), (7, "goc", 10))


def best(rows: pd.DataFrame, evaluations: float, names: tuple[str, ...] | None = None) -> tuple[str, float]:
    """The closest row of at most so many evaluations, by its method and its distance; names None: the published."""
    chosen = ~rows["method"].isin([*OURS, "none"]) if names is None else rows["method"].isin(names)
    rows = rows[chosen & (rows["evaluations"] <= evaluations + 0.01)]
    found = list(zip(rows[DISTANCE].astype(float), rows["method"].astype(str), strict=True))
    distance, name = min(found, default=(float("nan"), ""))
    return name, distance


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, guidance, solver and number of evaluations: every way's distance, and shares of it."""
    found = []
    for (model, family, cfg_scale, solver), rows in frame.groupby(["model", "family", "cfg_scale", "solver"]):
        learned = rows[rows["method"] == "searched_learned"]
        for evaluations in sorted(learned["evaluations"].astype(float)):
            rival, distance = best(rows, evaluations)
            row = {"model": model, "family": family, "guidance": cfg_scale, "solver": solver}
            row |= {"evaluations": evaluations, "best published": rival, "its distance": distance}
            row |= {name: best(rows[(rows["evaluations"] - evaluations).abs() < 0.01], evaluations, (name,))[1]
                    for name in (*OURS, "goc", "reuse")}  # fmt: skip
            found.append(row)
    return pd.DataFrame(found)


def mean(values: pd.Series) -> str:
    """Mean and standard deviation over models."""
    numbers = values.astype(float)
    return f"{numbers.mean():.2f} ± {numbers.std(ddof=1):.2f}" if len(numbers) > 1 else f"{numbers.mean():.2f}"


def main() -> int:
    """Print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/digits_ratios")
    runs = collect(parser.parse_args().folders)
    if not runs:
        print("error: no finished runs there", file=sys.stderr)
        return 1
    frame = over_seeds(table([result for _, result in runs]))
    frame["method"] = frame["method"].astype(str)
    each = shares(frame)
    print("## Distances, and the best published cache of at most as many evaluations\n")
    print(each.drop(columns="family").to_markdown(index=False, floatfmt=".4g"))
    print("\n## Shares of the best published distance, means over models\n")
    rows = []
    for (guidance, steps, evaluations), group in each.assign(steps=each["solver"].str.split("-").str[-1]).groupby(
        ["guidance", "steps", "evaluations"]
    ):
        row = {"guidance": guidance, "steps": steps, "evaluations": evaluations, "models": len(group)}
        row |= {name: mean(group[name] / group["its distance"]) for name in OURS}
        rows.append(row | claim(group, 1 - float(str(evaluations)) / float(str(steps))))
    print(pd.DataFrame(rows).to_markdown(index=False))
    print("\n## As close with fewer evaluations, of 20 steps\n")
    print(pd.DataFrame(equal_rows(frame)).to_markdown(index=False, floatfmt=".3g"))
    return 0


def claim(group: pd.DataFrame, ratio: float) -> dict[str, str]:
    """What was claimed of searched_learned at a cache ratio, and whether its mean over models holds it."""
    nearest = min(CLAIMS, key=lambda known: abs(known - ratio))
    rival, most = CLAIMS[nearest]
    share = (group["searched_learned"] / group["its distance" if rival == "published" else rival]).astype(float)
    held = "held" if share.mean() <= most else "MISSED"
    misses = group["model"][share > most].tolist()
    return {
        "claim": f"at most {most:.2f} of {rival}",
        "searched_learned / it": mean(share),
        "": held + (f", missed on {', '.join(misses)}" if misses else ""),
    }


def equal_rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    """searched_learned with few evaluations beside rivals with more, for each model and guidance."""
    rows: list[dict[str, object]] = []
    of_20 = frame[frame["solver"].str.endswith("-20")]
    for few, rival, many in EQUAL_AT_20:
        for (cfg_scale, model), group in of_20.groupby(["cfg_scale", "model"]):
            own = best(group[(group["evaluations"] - few).abs() < 0.01], few, ("searched_learned",))[1]
            name, other = best(group, many, None if rival == "published" else (rival,))
            if np.isnan(own) or np.isnan(other):
                continue
            row = {"guidance": cfg_scale, "model": model, "evaluations": few, "searched_learned": own}
            row |= {"rival": f"{name}, {many} evaluations", "distance": other, "share": own / other}
            rows.append(row | {"": "held" if own <= other else "MISSED"})
    return rows


if __name__ == "__main__":
    sys.exit(main())
