"""Each way's distance beside whole steps of the same cost: `python experiments/digits_field.py outputs/digits_field`.

Reads the finished study (digits_field.yaml beside this) and prints as CSV, or writes with --tables FOLDER to
field-MODELS.csv, one table for each family of models: what a way costs in MACs and in measured time, both in guided
evaluations of the network, its mean distance to the converged solution with its error, its FID, and its distance as a
share of what published whole-step ways without a selection, a check or predicted halves reach at that cost: the best
at no more, interpolated between two (both logarithms), and nothing where it costs less than all of them. Means over the
models of a family.
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from goc.report.collect import finished
from goc.report.result import Result
from goc.report.tables import with_error
from goc.system.arguments import command_parser
from goc.system.command import run_command

WHOLE_STEPS = ("none", "fora", "taylorseer", "goc")
NAMES = {"none": "fewer steps", "fora": "FORA", "taylorseer": "TaylorSeer", "toca": "ToCa", "duca": "DuCa",
         "clusca": "ClusCa", "speca": "SpeCa", "goc": "GOC", "front": "front"}  # fmt: skip


def name_of(result: Result) -> tuple[str, bool]:
    """A way's name in the table, and whether it is published, caches whole steps and nothing else."""
    config = result.config
    schedule, halves = config["schedule"], config.get("cfg_cache")
    method = "none" if schedule["name"] == "none" else result.method.partition("+")[0]
    random = config.get("selection", {}).get("name") == "random"
    name = "halves predicted" if method == "none" and halves else NAMES[method]
    if schedule.get("interval"):
        name += f" N={schedule['interval']}"
    if method in ("goc", "front"):
        name += f", {config['cache_ratio']:.0%} cached"
    if schedule["name"] == "verify":
        name += f" {schedule['base_threshold']}"
    if random:
        name += ", random tokens"
    if halves and method != "none":
        name += ", halves predicted"
    return name, method in WHOLE_STEPS and not halves and not random


def row_of(result: Result) -> dict[str, Any]:
    """What the table says of a run."""
    config, cost, converged = result.config, result.cost, result.converged
    name, whole = name_of(result)
    model, steps = config["model"], config["steps"]
    return {
        "models": model["family"] or model["name"], "model": model["name"], "way": name, "whole": whole, "steps": steps,
        "macs": cost["macs_evaluations"], "time": cost["latency_ratio"] * steps, "distance": converged["mean"],
        "error": converged["mean_se"], "fid": result.metrics["fid"],
    }  # fmt: skip


def reached(whole: pd.DataFrame, axis: str, cost: float) -> float:
    """The distance that whole-step ways of one model reach at a cost; NaN below all of them."""
    # ways of equal cost are one, the best of them
    best = whole.assign(cost=whole[axis].round(6)).groupby("cost")["distance"].min().cummin()
    logs = np.interp(math.log(round(cost, 6)), np.log(best.index.to_numpy()), np.log(best.to_numpy()), left=math.nan)
    return float(np.exp(logs))


def tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of each family of models, by MACs."""
    for axis in ("macs", "time"):
        rows[f"at_{axis}"] = math.nan
        for _, group in rows.groupby("model"):
            whole = group[group["whole"]]
            rows.loc[group.index, f"at_{axis}"] = [
                distance / reached(whole, axis, cost)
                for distance, cost in zip(group["distance"], group[axis], strict=True)
            ]
    tables = {}
    for family, of_family in rows.groupby("models"):
        cells: list[dict[str, Any]] = []
        for _, group in of_family.groupby(["way", "steps"]):
            mean = group.mean(numeric_only=True)
            cells.append({
                "way": group["way"].iloc[0], "steps": group["steps"].iloc[0],
                "MACs": f"{mean['macs']:.1f}", "time": f"{mean['time']:.1f}",
                "to converged": with_error(mean["distance"], math.sqrt((group["error"] ** 2).sum()) / len(group)),
                "FID": f"{mean['fid']:.2f}",
                "at equal MACs": "" if math.isnan(mean["at_macs"]) else f"{mean['at_macs']:.2f}",
                "at equal time": "" if math.isnan(mean["at_time"]) else f"{mean['at_time']:.2f}",
            })  # fmt: skip
        cells.sort(key=lambda cell: float(cell["MACs"]))
        tables[str(family)] = pd.DataFrame(cells)
    return tables


def main() -> int:
    """Print or write the tables; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/digits_field")
    parser.add_argument("--tables", type=Path, help="write them to this folder")
    options = parser.parse_args()
    rows = pd.DataFrame([row_of(Result.load(folder)) for folder, _ in finished(options.folders)])
    for family, table in tables(rows).items():
        if options.tables is None:
            print(f"\n{family}\n{table.to_csv(index=False)}", end="")
        else:
            table.to_csv(options.tables / f"field-{family}.csv", index=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
