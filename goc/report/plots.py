"""Pictures of finished runs: quality against cost, and the alignment of gradients."""

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from goc.report.frame import LOWER_IS_BETTER, PROTOCOL, protocol_name
from goc.system.files import room_for

QUALITY = {"fid": "FID to the real images (lower is better)", "mse": "MSE to the uncached samples"}
COST = {"macs_saved": "MACs saved, %", "speedup": "measured speed-up"}
PANELS = (("fid", "macs_saved"), ("mse", "macs_saved"), ("fid", "speedup"))
MARKERS = "osD^v<>PX*"
COLORS = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]


def pareto(cost_saved: np.ndarray, quality: np.ndarray, lower_is_better: bool) -> np.ndarray:
    """Which points no other point beats in both: bool of the inputs' shape [n]; NaN never is on the front."""
    worse = quality if lower_is_better else -quality
    known = ~(np.isnan(worse) | np.isnan(cost_saved))
    beaten = [
        bool(np.any(known & (cost_saved >= cost_saved[i]) & (worse <= worse[i])
                    & ((cost_saved > cost_saved[i]) | (worse < worse[i]))))
        for i in range(len(worse))
    ]  # fmt: skip
    return known & ~np.array(beaten, dtype=bool)


def _plot_lines(axis: Axes, frame: pd.DataFrame, quality: str, cost: str, styles: dict[str, dict[str, Any]]) -> None:
    """Quality against what is saved, one line a series, spread over seeds as bars; the uncached run as a level."""
    baseline = frame.loc[frame["cached"] == 0, quality].dropna()
    for name, rows in frame[frame["cached"] > 0].groupby("series", sort=False):
        rows = rows.sort_values("cached")
        spread = rows.get(f"{quality}_spread")
        axis.errorbar(rows[cost], rows[quality], spread, label=name, capsize=2, linewidth=1.2, **styles[str(name)])
    if len(baseline):
        axis.axhline(baseline.iloc[0], color="black", linestyle="--", linewidth=1, label="no cache")
    front = frame[pareto(frame[cost].to_numpy(float), frame[quality].to_numpy(float), quality in LOWER_IS_BETTER)]
    axis.scatter(front[cost], front[quality], s=130, facecolors="none", edgecolors="black", label="Pareto front")
    axis.set(xlabel=COST[cost], ylabel=QUALITY[quality])


def _plot_bars(axis: Axes, frame: pd.DataFrame, quality: str) -> None:
    """Quality of runs that all save the same, one bar a series."""
    rows = frame[frame[quality].notna()].sort_values("series", ascending=False)
    axis.bar_label(axis.barh(rows["series"], rows[quality], xerr=rows.get(f"{quality}_spread")), fmt=" %.3g")
    axis.margins(x=0.15)
    axis.set_xlabel(QUALITY[quality])


def plot_tradeoff(frame: pd.DataFrame, folder: Path) -> None:
    """Draw quality against cost to FOLDER/tradeoff.png, .svg and .pdf; runs of different protocols never share axes.

    frame: `goc.report.frame.over_seeds` with a column `series`, the name of a run's line.
    """
    protocols = [group for _, group in frame.groupby(PROTOCOL, sort=False, dropna=False)]
    heights = [max(4.6, 0.34 * len(group) if _one_ratio(group) else 0.26 * group["series"].nunique() + 1.0)
               for group in protocols]  # fmt: skip
    timed = frame["latency_ratio"].notna().any()
    panels = [(quality, cost) for quality, cost in PANELS if timed or cost != "speedup"]
    figure, axes = plt.subplots(
        len(protocols), len(panels), figsize=(6.3 * len(panels), sum(heights)), squeeze=False, height_ratios=heights,
        layout="constrained",
    )  # fmt: skip
    names = frame["series"].unique()
    looks = zip(names, cycle(COLORS), [MARKERS[i // len(COLORS) % len(MARKERS)] for i in range(len(names))])
    styles = {str(name): {"color": color, "marker": marker} for name, color, marker in looks}
    for row, group in zip(axes, protocols, strict=True):
        group = group.assign(macs_saved=100 * group["macs_saved"].astype(float))
        group["speedup"] = 1 / group["latency_ratio"].astype(float)
        for axis, (quality, cost) in zip(row, panels, strict=True):
            values = group[quality].astype(float).dropna()
            drawn = len(values) > 0 and (cost != "speedup" or group["speedup"].notna().any())
            if not drawn or (_one_ratio(group) and cost == "speedup"):
                axis.set_visible(False)
                continue
            wide = values.max() > 4 * values.min() > 0
            if _one_ratio(group):
                _plot_bars(axis, group, quality)
                axis.set_xscale("log" if wide else "linear")
            else:
                _plot_lines(axis, group, quality, cost, styles)
                axis.set_yscale("log" if wide else "linear")
            axis.grid(alpha=0.3)
        row[0].set_title(protocol_name(group.iloc[0].to_dict()), loc="left")
        shown = [axis for axis in row if axis.get_visible() and axis.get_legend_handles_labels()[0]]
        if shown:
            shown[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    undated = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for suffix, metadata in undated.items():
        path = folder / f"tradeoff.{suffix}"
        with room_for(path):
            figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)


def _one_ratio(frame: pd.DataFrame) -> bool:
    return frame.loc[frame["cached"] > 0, "cached"].round(2).nunique() == 1


def plot_alignment(result: dict[str, Any], path: Path) -> None:
    """Draw the gradient alignment of each step, the threshold, and the steps it gates."""
    threshold = result["config"]["inflection_threshold"]
    values = np.array(result["inflection"]["alignment"], dtype=float)  # None, before the first gradient, becomes NaN
    figure, axis = plt.subplots(
        figsize=(8, 3.6), gridspec_kw={"left": 0.08, "right": 0.99, "bottom": 0.14, "top": 0.91}
    )
    axis.bar(np.arange(len(values)), values, color=np.where(values < threshold, "tab:red", "tab:blue"))
    axis.axhline(threshold, color="black", linestyle="--", linewidth=1)
    axis.locator_params(axis="x", integer=True)
    axis.set_xlabel("sampling step (0 is the noisiest)")
    axis.set_ylabel("gradient alignment")
    axis.set_title(
        f"Inflections (red): alignment below {threshold:g}, {result['config']['sampler'].upper()}-{len(values)}"
    )
    axis.set_ylim(min(-0.5, np.nanmin(values) - 0.05), 1)
    with room_for(path):
        figure.savefig(path, dpi=120)
    plt.close(figure)
