"""Decisions beside fixed schedules of the same cost: `python experiments/digits_decisions.py outputs/digits_decisions`.

Reads the finished study (digits_decisions.yaml beside this) and prints as CSV, or writes with --table FILE, for each
family of models and each decision how far samples end from the uncached ones, as a share of how far reuse on every
n-th step takes the same samples at the same cost: the geometric mean of these shares over samples, with its standard
error in brackets. At a cost between two intervals the fixed schedule's distance is interpolated, sample by sample
(both logarithms).

- all samples, against the fixed schedule of the decision's mean cost;
- the thirds of the samples of which the decision computed least, and most: against that same schedule, and against one
  of the third's own mean cost. The first says for whom a decision is good, the second whether it spends more where more
  is to be had. Samples of equal cost are in no third.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from goc.report.collect import finished
from goc.report.result import Result
from goc.sampling.shards import SampleSet
from goc.system.arguments import command_parser
from goc.system.command import run_command

FIXED = "fora"
ALL, LEAST, MOST, AT_COST = "all samples", "computed least", "computed most", "{}, at its own cost"
SHARES = [ALL, LEAST, MOST, AT_COST.format(LEAST), AT_COST.format(MOST)]
COLUMNS = ["models", "decision", "MACs", "evaluations", "distance", *SHARES]


@dataclass(frozen=True)
class Ran:
    """One run: how many evaluations' MACs it took, of each sample [N], and each one's distance to its target [N]."""

    macs: float
    evaluations: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, result: Result) -> "Ran":
        """A finished run's."""
        config, cost = result.config, result.cost
        samples = SampleSet(result.folder / "samples", config["num_samples"], config["batch_size"])
        cached: list[float] = []
        for count, shard in samples.costs():
            cached += shard.get("cache_ratios", [shard["cache_ratio"]] * count)
        evaluations = cost["evaluations"] / (1 - cost["cache_ratio"]) * (1 - np.array(cached))
        return cls(cost["macs_evaluations"], evaluations, result.influence["relative_l2"])


@dataclass(frozen=True)
class Share:
    """The logarithm of a geometric mean over samples, and its standard error."""

    log: float
    error: float

    @classmethod
    def over(cls, distances: np.ndarray, other: np.ndarray) -> "Share":
        """Of the shares that samples' distances [n] have of others."""
        logs = np.log(distances) - np.log(other)
        return cls(float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs)))

    @classmethod
    def mean(cls, shares: list["Share"]) -> "Share":
        """Over models, of samples that are independent."""
        error = math.sqrt(sum(share.error**2 for share in shares)) / len(shares)
        return cls(sum(share.log for share in shares) / len(shares), error)

    def __str__(self) -> str:
        value = math.exp(self.log)
        return f"{value:.3f}({max(1, round(1000 * value * self.error))})"


def fixed_at(fixed: list[Ran], macs: float) -> np.ndarray | None:
    """Each sample's distance [N] under a fixed schedule of that cost; None where none is cheaper, or none dearer."""
    costs = [ran.macs for ran in fixed]
    if not (costs and costs[0] <= macs <= costs[-1]):
        return None
    above = max(1, int(np.searchsorted(costs, macs)))
    low, high = fixed[above - 1], fixed[above]
    place = math.log(macs / low.macs) / math.log(high.macs / low.macs)
    return np.exp((1 - place) * np.log(low.distances) + place * np.log(high.distances))


def shares(decided: Ran, fixed: list[Ran]) -> Iterator[tuple[str, Share]]:
    """A decision's shares by column, of one model; fixed: by cost, ascending."""
    at_mean = fixed_at(fixed, decided.macs)
    if at_mean is None:
        return
    yield ALL, Share.over(decided.distances, at_mean)
    low, high = np.quantile(decided.evaluations, [1 / 3, 2 / 3])
    for name, chosen in ((LEAST, decided.evaluations <= low), (MOST, decided.evaluations >= high)):
        # a quantile that half of the samples share tells nothing apart
        if min(chosen.sum(), (~chosen).sum()) < len(chosen) / 5:
            continue
        yield name, Share.over(decided.distances[chosen], at_mean[chosen])
        of_third = decided.macs * decided.evaluations[chosen].mean() / decided.evaluations.mean()
        at_cost = fixed_at(fixed, of_third)
        if at_cost is not None:
            yield AT_COST.format(name), Share.over(decided.distances[chosen], at_cost[chosen])


def rows(results: list[Result]) -> Iterator[dict[str, Any]]:
    """The table: each decision on each family of models."""
    runs: dict[tuple[str, str], dict[str, list[Ran]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        model = result.config["model"]
        runs[model["family"] or model["name"], model["name"]][result.method].append(Ran.of(result))
    cells: dict[tuple[str, str], dict[str, list[Share]]] = defaultdict(lambda: defaultdict(list))
    about: dict[tuple[str, str], list[Ran]] = defaultdict(list)
    for (family, _), methods in runs.items():
        fixed = sorted(methods.pop(FIXED, []), key=lambda ran: ran.macs)
        for method, (run,) in methods.items():
            about[family, method].append(run)
            for column, share in shares(run, fixed):
                cells[family, method][column].append(share)
    for (family, method), models in sorted(about.items()):
        row: dict[str, Any] = {"models": family, "decision": method}
        row["MACs"] = f"{np.mean([ran.macs for ran in models]):.1f}"
        spread = np.mean([ran.evaluations.std() for ran in models])
        row["evaluations"] = f"{np.mean([ran.evaluations.mean() for ran in models]):.1f} ± {spread:.2f}"
        row["distance"] = f"{np.mean([ran.distances.mean() for ran in models]):.4f}"
        for column in SHARES:
            values = cells[family, method][column]
            fewer = f" ({len(values)} of {len(models)})" if len(values) < len(models) else ""
            row[column] = f"{Share.mean(values)}{fewer}" if values else ""
        yield row


def main() -> int:
    """Print or write the table; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/digits_decisions")
    parser.add_argument("--table", type=Path, help="write it to this file")
    options = parser.parse_args()
    table = pd.DataFrame(rows([Result.load(folder) for folder, _ in finished(options.folders)]))[COLUMNS]
    print(table.to_csv(index=False), end="") if options.table is None else table.to_csv(options.table, index=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
