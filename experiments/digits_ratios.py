"""What our own caches reach beside the published ones: `python experiments/digits_ratios.py outputs/digits_ratios`.

Reads the finished study (digits_ratios.yaml beside this, or one like it) and prints as Markdown:

- the mean distance of searched + learned samples to the target as a share of the best rival's of at most as many
  evaluations, for each number of steps and evaluations, as a mean over models with the standard deviation over them;
  where a share is above what was claimed, MISSED, and on which models. Rivals are the published methods; and once more
  these and all that their schedules and predictors can be put together to, such as uniform+taylor;
- how few evaluations are as close as more of a rival's;
- what finding its schedule and training its weights cost, and after how many images that has paid for itself;
- where the anchored gradient queue is worse than plain reuse, in pairs;
- all numbers, as means over models.

--picture FILE draws the mean distances against evaluations.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from goc.methods.schedules import Searched
from goc.models.plans import read_plan
from goc.report.collect import finished
from goc.report.families import pooled
from goc.report.figures import write_figure
from goc.report.frame import over_seeds, table
from goc.report.pairs import Point, difference, points_of
from goc.system.arguments import command_parser
from goc.system.command import run_command

OURS = ("goc_anchored", "dynamic", "searched", "searched_goc", "searched_learned", "halving", "front")
DISTANCE = "relative_l2_mean"
PUBLISHED, COMPOSED = "published", "published or composed"
# cache ratio -> (rival, None: the best one; the largest share of its distance that searched_learned may have)
CLAIMS = {0.5: ("goc", 2 / 3), 0.65: (None, 0.5), 0.75: (None, 0.5), 0.8: (None, 0.5)}
# of 20 steps: searched_learned with so many evaluations is as close as the rival with so many
AS_CLOSE = ((5, PUBLISHED, 7), (5, COMPOSED, 7), (7, "goc", 10))


def rivals(rows: pd.DataFrame, rival: str) -> "pd.Series[bool]":
    """Which rows are of a rival, as `best` is given it."""
    methods = rows["method"].astype(str)
    others = ~methods.isin([*OURS, "none"])
    return {PUBLISHED: others & ~methods.str.contains("+", regex=False), COMPOSED: others}.get(rival, methods == rival)


def best(rows: pd.DataFrame, rival: str, evaluations: float) -> tuple[float, str]:
    """The smallest mean distance of a rival's rows of at most so many evaluations, and its method; NaN without one.

    rival: a method; PUBLISHED for all that have a published name, COMPOSED for all that are not ours.
    """
    rows = rows[rivals(rows, rival) & (rows["evaluations"] < evaluations + 0.01)]
    distances = zip(rows[DISTANCE].astype(float), rows["method"].astype(str), strict=True)
    return min(distances, default=(math.nan, ""))


def at(rows: pd.DataFrame, evaluations: float) -> pd.DataFrame:
    """The rows of so many evaluations."""
    return rows[(rows["evaluations"].astype(float) - evaluations).abs() < 0.01]


def mean(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation over models."""
    numbers = pd.Series(values, dtype=float)
    return f"{numbers.mean():.{digits}f}" + (f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else "")


def conditions(frame: pd.DataFrame) -> Iterator[tuple[dict[str, object], float, list[tuple[str, pd.DataFrame]]]]:
    """For each guidance, number of steps and of evaluations of searched_learned: these, and each model's rows."""
    for (cfg_scale, steps), rows in frame.groupby(["cfg_scale", "steps"]):
        learned = rows[rows["method"] == "searched_learned"]["evaluations"].astype(float)
        for evaluations in sorted(set(learned.round(3)), reverse=True):
            models = [(str(model), group) for model, group in rows.groupby("model")
                      if not math.isnan(best(at(group, evaluations), "searched_learned", evaluations)[0])]  # fmt: skip
            ratio = 1 - evaluations / float(str(steps))
            yield {"guidance": cfg_scale, "steps": steps, "evaluations": f"{evaluations:g}"}, ratio, models


def claims(frame: pd.DataFrame, among: str) -> Iterator[dict[str, object]]:
    """Shares of the best distance among rivals, and whether what was claimed of searched_learned holds."""
    for row, ratio, models in conditions(frame):
        evaluations = float(str(row["evaluations"]))
        rivals = [best(rows, among, evaluations) for _, rows in models]
        row["best"] = ", ".join(sorted({name for _, name in rivals}))
        for name in (name for name in OURS if name in set(frame["method"])):
            reached = [best(at(rows, evaluations), name, evaluations)[0] for _, rows in models]
            row[name] = mean([mine / other for mine, (other, _) in zip(reached, rivals, strict=True)])
        _, nearest = min((abs(known - ratio), known) for known in CLAIMS)
        rival, most = CLAIMS[nearest]
        of_rival = [best(rows, rival or among, evaluations)[0] for _, rows in models]
        shares = {model: mine / other for (model, _), mine, other in zip(models, reached, of_rival, strict=True)}
        misses = [f"{model} {share:.2f}" for model, share in shares.items() if share > most]
        held = "holds" if sum(shares.values()) / len(shares) <= most else "MISSED"
        row["claim"] = f"{most:.2f} of {rival or 'the best'}"
        row["reached"] = f"{mean(list(shares.values()))}: {held}" + (f" (above: {', '.join(misses)})" if misses else "")
        yield row


def as_close(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """searched_learned with few evaluations beside rivals with more, of 20 steps."""
    for few, rival, many in AS_CLOSE:
        for (cfg_scale, model), rows in frame[frame["steps"] == 20].groupby(["cfg_scale", "model"]):
            distance, (other, name) = best(at(rows, few), "searched_learned", few)[0], best(rows, rival, many)
            row = {"guidance": cfg_scale, "model": model, "searched_learned": f"{few} evaluations: {distance:.4f}"}
            yield row | {"rival": f"{name}, {many}: {other:.4f}", "": "holds" if distance <= other else "MISSED"}


def calibration_cost(steps: int, computed: int, training: dict[str, Any]) -> int:
    """Evaluations of the denoiser that a searched schedule with learned weights takes before the first image.

    The search's targets and trials, the training's targets, and its batches: a forward pass, another one for the
    gradient, and a backward pass, which counts twice. training: as a weights' file has it.
    """
    search = Searched.search_samples * (steps + Searched.search_evaluations * computed)
    return search + training["samples"] * steps + 4 * training["iterations"] * training["batch"] * computed


def trainings(results: Iterable[dict[str, Any]]) -> dict[tuple[str, float, int, int], dict[str, Any]]:
    """How the weights of searched_learned were trained, by model, guidance, steps and evaluations."""
    trainings = {}
    for result in results:
        if result["method"] == "searched_learned":
            config = result["config"]
            key = config["model"]["name"], config["cfg_scale"], config["steps"], round(result["cost"]["evaluations"])
            trainings[key] = read_plan(config["predictor"]["path"])["training"]
    return trainings


def payback(
    frame: pd.DataFrame, trained: Mapping[tuple[str, float, int, int], dict[str, Any]]
) -> Iterator[dict[str, object]]:
    """After how many images a calibration's evaluations are saved, beside the cheapest rival as close.

    trained: as `trainings` gives it. Where no rival is as close, all steps are computed.
    """
    for row, _, models in conditions(frame):
        evaluations, steps = float(str(row["evaluations"])), int(str(row["steps"]))
        costs, needed = [], []
        for model, rows in models:
            distance, _ = best(at(rows, evaluations), "searched_learned", evaluations)
            close = rows[rivals(rows, COMPOSED) & (rows[DISTANCE].astype(float) <= distance)]
            needed.append(min(close["evaluations"].astype(float), default=steps))
            training = trained[model, float(str(row["guidance"])), steps, round(evaluations)]
            costs.append(calibration_cost(steps, round(evaluations), training))
        saved = sum(needed) / len(needed) - evaluations
        row["calibration, evaluations"] = f"{round(sum(costs) / len(costs)):,}"
        row["a rival as close needs"] = mean(needed, 1)
        row["paid after images"] = f"{round(sum(costs) / len(costs) / saved):,}" if saved > 0 else "never"
        yield row


def anchored_and_reuse(frame: pd.DataFrame, points: dict[tuple[str, str], Point]) -> Iterator[dict[str, object]]:
    """The anchored queue's mean distance less that of plain reuse of the same steps, in pairs."""
    for (cfg_scale, solver, evaluations), rows in frame.groupby(["cfg_scale", "solver", "evaluations"]):
        row: dict[str, object] = {"guidance": cfg_scale, "solver": solver, "evaluations": f"{evaluations:g}"}
        for model, group in rows.groupby("model"):
            by_method = {str(one["method"]): points[one["measurement"], one["point"]] for _, one in group.iterrows()}
            if {"goc_anchored", "reuse"} <= by_method.keys():
                less = difference(by_method["goc_anchored"], by_method["reuse"], DISTANCE)
                if less is not None and less.error is not None:
                    verdict = (" WORSE" if less.value > 0 else "") if less.decided else " tie"
                    row[str(model)] = f"{less.value:+.4f}({round(less.error * 1e4)}){verdict}"
        if len(row) > 3:
            yield row


def numbers(frame: pd.DataFrame, points: dict[tuple[str, str], Point]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every way's numbers as means over models, in one table for each guidance and solver."""
    for (cfg_scale, solver), rows in frame.groupby(["cfg_scale", "solver"]):
        models = sorted(map(str, rows["model"].unique()))
        uncached = {one["model"]: points[one["measurement"], one["point"]] for _, one in
                    rows[rows["method"] == "none"].iterrows()}  # fmt: skip
        cells = []
        # settings that came out as the same run are one row
        cached = rows[rows["method"] != "none"].drop_duplicates(["model", "method", "evaluations", DISTANCE])
        for (evaluations, method, _), group in cached.groupby(["evaluations", "method", "way"]):
            chosen = [points[one["measurement"], one["point"]] for _, one in group.iterrows()]
            targets = [uncached[model] for model in group["model"]]
            row: dict[str, object] = {"evaluations": f"{evaluations:.3g}", "method": f"`{method}`"}
            row["cached"] = f"{group['cached'].astype(float).mean():.1%}"
            row["mean distance"] = mean(group[DISTANCE].tolist(), 5)
            row["median"] = mean(group["relative_l2_median"].tolist(), 5)
            row["drift"] = mean(group["drift"].tolist(), 4)
            row["FID less uncached"] = pooled(chosen, targets, "fid")
            if group["latency_ratio"].notna().all():
                row["latency ratio"] = mean(group["latency_ratio"].tolist(), 2)
            if len(group) < len(models):
                row["method"] = f"`{method}` ({', '.join(map(str, group['model']))})"
            cells.append((float(group[DISTANCE].astype(float).mean()), float(str(evaluations)), row))
        cells.sort(key=lambda cell: (-cell[1], cell[0]))
        yield f"{solver}, guidance {cfg_scale}: {', '.join(models)}", pd.DataFrame([row for *_, row in cells])


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Mean distance against evaluations, a panel for each guidance and solver: means over models, bars their spread."""
    panels = list(frame[frame["method"] != "none"].groupby(["cfg_scale", "solver"]))
    figure, rows = plt.subplots(
        -(-len(panels) // 2), 2, figsize=(11, 1 + 4.2 * -(-len(panels) // 2)), squeeze=False, layout="constrained"
    )
    rivals_of_ours = sorted(set(frame["method"]) - {*OURS, "none"})
    colors: dict[Any, Any] = {name: f"C{number}" for number, name in enumerate(OURS)}
    colors |= {name: plt.get_cmap("Dark2")(number % 8) for number, name in enumerate(rivals_of_ours)}
    for axes, ((cfg_scale, solver), cached) in zip(rows.flat, panels, strict=False):
        over_models = cached.groupby(["method", "evaluations"])[DISTANCE].agg(["mean", "std"])
        for method, line in over_models.groupby(level="method"):
            ours = method in OURS
            axes.errorbar(line.index.get_level_values("evaluations"), line["mean"], line["std"], label=method,
                          color=colors[method], marker="o" if ours else ".", linestyle="-" if ours else ":",
                          linewidth=2 if ours else 1.2)  # fmt: skip
        reuse = over_models.xs("reuse", level="method")["mean"]
        axes.set(yscale="log", ylim=(over_models["mean"].min() / 1.3, reuse.max() * 1.5), xlabel="network evaluations",
                 title=f"{solver}, guidance {cfg_scale}", ylabel="mean distance to the uncached samples")  # fmt: skip
    for axes in rows.flat[len(panels) :]:
        axes.remove()
    handles, labels = rows.flat[0].get_legend_handles_labels()
    figure.suptitle("Lower left is better. Solid: ours; dotted: published, or composed of these. What leaves the frame "
                    "is farther than reuse ever is.", fontsize=10)  # fmt: skip
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    write_figure(figure, path, dpi=110)


def show(title: str, rows: pd.DataFrame) -> None:
    """Print a table below its title."""
    print(f"\n## {title}\n")
    print(rows.fillna("").to_markdown(index=False, disable_numparse=True))


def main() -> int:
    """Print the tables; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with finished runs, such as outputs/digits_ratios")
    parser.add_argument("--picture", type=Path, help="draw to this file, too")
    options = parser.parse_args()
    runs = finished(options.folders)
    frame, points = over_seeds(table([result for _, result in runs])), points_of(runs)
    for among in (PUBLISHED, COMPOSED):
        show(f"Our own, as shares of the best distance {among}", pd.DataFrame(claims(frame, among)))
    show("As close with fewer evaluations, of 20 steps", pd.DataFrame(as_close(frame)))
    show("What calibration costs", pd.DataFrame(payback(frame, trainings(result for _, result in runs))))
    show("Anchored GOC less reuse: mean distance, in pairs", pd.DataFrame(anchored_and_reuse(frame, points)))
    for title, rows in numbers(frame, points):
        show(title, rows)
    if options.picture:
        draw(frame, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
