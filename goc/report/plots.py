"""Pictures of finished runs: quality against cost, and the alignment of gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from goc.report.columns import columns, lower_is_better
from goc.report.figures import write_figure
from goc.report.frame import MEASUREMENT, full_evaluations, is_uncached, measurement_name, method_names, speedup
from goc.report.front import beyond, foremost, leading, pareto, ranked
from goc.report.published import Published, laid_beside, positions
from goc.report.text import LONGEST, plot_text

QUALITY = {
    "converged": "distance to the converged solution",
    "fid": "FID to the real images",
    "fd_dinov2": "FD-DINOv2 to the real images",
    "fd_second": "FD by the second extractor",
    "drift": "drift from the uncached run",
    "relative_l2_median": "relative L2 to the uncached run, median",
    "relative_l2_mean": "relative L2 to the uncached run, mean",
    "mse": "MSE to the uncached samples",
}
COST = {
    "evaluations": "network evaluations (fewer is cheaper)",
    "gmacs": "GMACs per image (fewer is cheaper)",
    "speedup": "measured speed-up (more is cheaper)",
}
COLORS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]  # the stub names no ListedColormap
# what one picture has room for
PANELS, POINTS, SERIES, BARS = 60, 1000, 100, 100
WIDE = 4.0  # ratio of the largest to the smallest number from which an axis of quality is logarithmic
MARGIN = 0.05  # of an axis that is cut, beyond what it shows
LINES, MARKERS = ("-", "--", ":", "-."), "osD^v<>PX*"
PUBLISHED: dict[str, Any] = {"color": "#b4bcc6", "marker": "D", "linestyle": "none", "markersize": 4.5, "zorder": 1}
GREYS, UNCACHED_MARKERS = ("black", "dimgrey", "darkgrey"), "s^vD<>P"  # so many that few solvers look alike


def _errors(rows: pd.DataFrame, quality: str) -> np.ndarray | None:
    """Half the lengths of error bars: the standard errors, or where there are none the spread over seeds."""
    nothing = pd.Series(np.nan, index=rows.index)
    errors = rows.get(f"{quality}_se", nothing).astype(float).fillna(rows.get(f"{quality}_spread", nothing))
    return None if errors.isna().all() else errors.fillna(0.0).to_numpy()


def styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How each series is drawn: a colour for each method, a kind of line for each solver."""
    cached = frame[~is_uncached(frame)]
    solvers, named = cached["solver"], method_names(frame)[~is_uncached(frame)]
    colors = dict(zip(named.unique(), cycle(COLORS)))
    markers = {name: MARKERS[i // len(COLORS) % len(MARKERS)] for i, name in enumerate(named.unique())}
    lines = dict(zip(solvers.unique(), cycle(LINES)))
    looks = {
        str(series): {"color": colors[name], "marker": markers[name], "linestyle": lines[solver]}
        for series, name, solver in zip(cached["series"], named, solvers, strict=True)
    }
    uncached = sorted(map(str, frame.loc[is_uncached(frame), "series"].unique()))
    return looks | {
        series: {"color": color, "marker": marker, "linestyle": line, "linewidth": 2.0}
        for series, color, marker, line in zip(uncached, cycle(GREYS), cycle(UNCACHED_MARKERS), cycle(LINES))
    }


def _plot_lines(axis: Axes, panel: "Panel", cost: str, looks: dict[str, dict[str, Any]]) -> None:
    """Quality against cost, one line a series with its errors; a single uncached run also as a level."""
    frame, quality = panel.rows, panel.quality
    published = positions(panel.published, cost, quality)
    for known, label in ((True, "published"), (False, "published, as others quote it")):
        spots = [(x, y) for row, x, y in published if row.is_first_hand == known]
        if spots:
            axis.plot(*zip(*spots, strict=True), label=label, fillstyle="full" if known else "none", **PUBLISHED)
    for name, rows in panel.shown.groupby("series", sort=False):
        rows = rows.dropna(subset=[quality, cost]).sort_values(cost)
        if len(rows):
            look = {"capsize": 2, "linewidth": 1.2, "markersize": 5, **looks[str(name)]}
            label = plot_text(str(name))
            axis.errorbar(rows[cost], rows[quality].astype(float), _errors(rows, quality), label=label, **look)
    levels = frame.loc[is_uncached(frame), quality].dropna()
    if len(levels) == 1 and not columns()[quality].to_target:
        axis.axhline(levels.iloc[0], color="black", linestyle=":", linewidth=0.8)
    saved = frame[cost].to_numpy(float) * (-1 if cost == "speedup" else 1)
    front = np.zeros(len(frame), dtype=bool)
    # targets of other steps are other ones
    apart = frame["solver"] if columns()[quality].to_target else pd.Series("", index=frame.index)
    for places in frame.groupby(apart).indices.values():
        front[places] = pareto(saved[places], frame[quality].to_numpy(float)[places], lower_is_better(quality))
    ringed = frame[front & frame.index.isin(panel.shown.index)]
    axis.scatter(ringed[cost], ringed[quality], s=110, facecolors="none", edgecolors="black", label="Pareto front")
    axis.set(xlabel=COST[cost], ylabel=f"{QUALITY[quality]} (lower is better)")
    far = beyond(frame, quality)
    cut_at_frame(axis, frame, far, quality, [y for _, _, y in published])
    mark_beyond(axis, panel.shown[panel.shown.index.isin(frame.index[far])], cost, quality, looks)
    spent = [*frame[cost].astype(float).dropna(), *(x for _, x, _ in published)]
    if max(spent) > 3 * min(spent) > 0:
        axis.set_xscale("log")
        round_ticks(axis.xaxis, axis.get_xlim())


def cut_at_frame(axis: Axes, rows: pd.DataFrame, far: np.ndarray, quality: str, others: Sequence[float] = ()) -> None:
    """End the axis of a quality where the rows do that are not far off, and make it logarithmic if they span much.

    far: bool [n], as `goc.report.front.beyond` finds them. others: numbers that are drawn, too.
    """
    near = rows[~far].dropna(subset=[quality])
    values = np.array([*near[quality], *others], dtype=float)
    wide = bool(values.max(initial=0.0) > WIDE * values[values > 0].min(initial=np.inf))
    if wide:
        axis.set_yscale("log")
    if far.any():
        errors = _errors(near, quality)
        bars = 0.0 if errors is None else errors
        ends = np.array([*values, *(near[quality] - bars), *(near[quality] + bars)], dtype=float)
        least, most = ends[ends > 0].min() if wide else ends.min(), ends.max()
        margin = MARGIN * (math.log(most / least) if wide else most - least)
        axis.set_ylim(*(least / math.exp(margin), most * math.exp(margin)) if wide else (least - margin, most + margin))
    if wide:
        round_ticks(axis.yaxis, axis.get_ylim())


def mark_beyond(axis: Axes, rows: pd.DataFrame, cost: str, quality: str, looks: dict[str, dict[str, Any]]) -> None:
    """Mark rows beyond the frame at its upper edge, above their cost, with their numbers."""
    at_edge = axis.get_xaxis_transform()
    for spent in rows[cost].astype(float).dropna().unique():
        equal = rows[rows[cost] == spent].sort_values(quality, kind="stable")
        for place, (name, value) in enumerate(zip(equal["series"], equal[quality], strict=True)):
            color = looks[str(name)]["color"]
            axis.plot(spent, 1.0, marker="^", markersize=7, color=color, transform=at_edge, clip_on=False, zorder=5)
            axis.annotate(f"{value:.2g}", (spent, 1.0), xycoords=at_edge, xytext=(6, -9 * (place + 1)),
                          textcoords="offset points", fontsize=8, color=color)  # fmt: skip
    if len(rows):
        axis.plot([], [], marker="^", color="grey", linestyle="none", label="far beyond the frame, its number")


def round_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Name a logarithmic axis by round numbers, 1, 2, 5, ... times powers of ten, or by powers alone if it is long."""
    bases = (1, 2, 5) if limits[1] < 300 * limits[0] else (1,)
    ticks = [base * 10.0**power for power in range(-8, 8) for base in bases]
    axis.set_ticks([tick for tick in ticks if limits[0] <= tick <= limits[1]])
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axis.set_minor_formatter(NullFormatter())


def _plot_bars(axis: Axes, rows: pd.DataFrame, quality: str) -> None:
    """Quality of runs that all cost the same, one bar a series."""
    rows = rows[rows[quality].notna()].sort_values("series", ascending=False)
    values = rows[quality].to_numpy(float)
    if values.max() > WIDE * values[values > 0].min(initial=np.inf):
        axis.set_xscale("log")
    bars = axis.barh(rows["series"].astype(str).map(plot_text), rows[quality], xerr=_errors(rows, quality))
    axis.bar_label(bars, fmt=" %.3g")
    axis.margins(x=0.15)
    axis.set_xlabel(f"{QUALITY[quality]} (lower is better)")


def _drawn(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Which qualities and which costs there is something to draw of; of those to the uncached run, the first known."""
    qualities = [quality for quality in QUALITY if frame[quality].notna().any()]
    to_target = [quality for quality in qualities if columns()[quality].to_target]
    qualities = [quality for quality in qualities if quality not in to_target[1:]]
    if (first := leading(frame)) in QUALITY and frame[first].notna().any():
        qualities = list(dict.fromkeys([first, *qualities]))
    return qualities, [cost for cost in COST if frame[cost].notna().any()]


@dataclass(frozen=True)
class Panel:
    """One quality of one measurement, and as many of its rows as can be drawn."""

    rows: pd.DataFrame
    quality: str
    bars: bool  # instead of lines, as all rows cost the same, or nobody knows what
    shown: pd.DataFrame
    published: list[Published]

    @classmethod
    def of(cls, rows: pd.DataFrame, quality: str) -> "Panel":
        published = [row for row in laid_beside(rows) if quality in row.numbers]
        bars = not _drawn(rows)[1] or (_one_cost(rows) and not published)
        order = (quality, *QUALITY)
        shown = rows.iloc[foremost(rows, BARS if bars else POINTS, order)]
        if not bars and shown["series"].nunique() > SERIES:
            names = shown["series"].iloc[ranked(shown, order)].unique()[:SERIES]
            shown = shown[shown["series"].isin(names)]
        return cls(rows, quality, bars, shown, published)

    @property
    def height(self) -> float:
        """Inches."""
        return max(4.0, 0.34 * len(self.shown) if self.bars else 0.2 * self.shown["series"].nunique() + 1.0)

    @property
    def left_out(self) -> str:
        """What it does not show; empty if that is nothing."""
        if len(self.shown) == len(self.rows):
            return ""
        lines, all_lines = (rows["series"].nunique() for rows in (self.shown, self.rows))
        return f"{len(self.shown)} of {len(self.rows)} rows" + (f", {lines} of {all_lines} lines" * (lines < all_lines))


def plot_tradeoff(frame: pd.DataFrame, folder: Path) -> str:
    """Draw quality against cost to FOLDER/tradeoff.png, .svg and .pdf; runs of different measurements never share axes.

    frame: `goc.report.frame.over_seeds` with a column `series`, the name of a run's line. The measured speed-up is over
    the longest uncached trajectory of the picture. Returns what it has no room for, as a line of text; empty if that is
    nothing.
    """
    frame = frame.assign(speedup=speedup(frame))
    groups = [group for _, group in frame.groupby(MEASUREMENT, sort=False, dropna=False)]
    wanted = [(group, quality) for group in groups for quality in _drawn(group)[0]]
    panels = [Panel.of(group, quality) for group, quality in wanted[:PANELS]]
    if not panels:
        return ""
    costs = _drawn(frame)[1] or ["unknown"]
    if all(panel.bars for panel in panels):
        costs = costs[:1]
    heights = [panel.height for panel in panels]
    figure = Figure(figsize=(5.6 * len(costs) + 1.5, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), len(costs), squeeze=False, height_ratios=heights)
    looks = styles(frame)
    named: list[int] = []
    for line, panel in zip(axes, panels, strict=True):
        group, quality = panel.rows, panel.quality
        for axis, cost in zip(line, costs, strict=True):
            if panel.bars and cost != costs[0]:
                axis.set_visible(False)
                continue
            if panel.bars:
                _plot_bars(axis, panel.shown, quality)
            else:
                _plot_lines(axis, panel, cost, looks)
            if panel.left_out:
                axis.set_xlabel(f"{axis.get_xlabel()}\n{panel.left_out}")
            axis.grid(alpha=0.3)
        if id(group) not in named:
            named.append(id(group))
            line[0].set_title(plot_text(measurement_name(group.iloc[0].to_dict()), LONGEST), loc="left")
            if not panel.bars:
                line[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=8, frameon=False)
    undated = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for suffix, metadata in undated.items():
        path = folder / f"tradeoff.{suffix}"
        write_figure(figure, path, dpi=110, metadata=metadata)
        figure.set_layout_engine(None)  # all lies where the first format has put it; to ask again is half of the work
    left_out = list(dict.fromkeys(panel.left_out for panel in panels if panel.left_out))
    if len(wanted) > PANELS:
        left_out.append(f"{PANELS} of {len(wanted)} panels")
    return f"tradeoff.png has {'; '.join(left_out[:3])}: uncached rows, the fronts, and the best" if left_out else ""


def _one_cost(frame: pd.DataFrame) -> bool:
    cached = frame[~is_uncached(frame)]
    return cached["evaluations"].round(1).nunique() == 1 and full_evaluations(frame).nunique() == 1
