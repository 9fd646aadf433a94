"""Pictures and tables of finished runs: `python -m goc.report PATH...` over any folders that hold runs.

Writes tradeoff.csv and tradeoff.png: image quality against what caching saves, one line a method.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from goc.results import PROTOCOL, RESULT_FILE, protocol_name, read_result, table

SETTINGS = {
    "gradient_weights": "w",
    "inflection_threshold": "threshold",
    "clock": "clock",
}  # told apart by, and their short names
QUALITY = {
    "fid": "FID to the real images (lower is better)",
    "mse": "MSE to the uncached samples",
}
PRINTED = [
    "method",
    "steps",
    "cached",
    "fid",
    "is",
    "kid",
    "mse",
    "psnr",
    "macs_saved",
    "ms_per_image",
    "latency_ratio",
]


def collect(paths: list[Path]) -> list[dict[str, Any]]:
    """Results of every finished run below the paths, each once, in a fixed order."""
    folders = sorted({file.parent.resolve() for path in paths for file in path.rglob(RESULT_FILE)})
    return [result for folder in folders if (result := read_result(folder)) is not None]


def _series_names(frame: pd.DataFrame) -> pd.Series:
    """A name for each run: its method, and those settings that differ between runs of one method."""
    names = frame["method"].astype(str)
    for setting, short in SETTINGS.items():
        values = frame[setting].map(lambda value: "none" if value is None or value != value else str(value))
        varies = values.groupby(frame["method"]).transform("nunique") > 1
        names = names.where(~varies, names + f", {short} " + values)
    return names


def _plot_lines(axis: Axes, frame: pd.DataFrame, quality: str) -> None:
    """Quality against the share of MACs saved, one line a series; the uncached run as a level."""
    baseline = frame[frame["cached"] == 0]
    for name, rows in frame[frame["cached"] > 0].groupby("series", sort=False):
        rows = rows.sort_values("macs_saved")
        axis.plot(100 * rows["macs_saved"], rows[quality], marker="o", label=name)
    if quality in baseline and baseline[quality].notna().any():
        axis.axhline(baseline[quality].iloc[0], color="black", linestyle="--", linewidth=1, label="no cache")
    axis.set_xlabel("MACs saved, %")


def _plot_bars(axis: Axes, frame: pd.DataFrame, quality: str) -> None:
    """Quality of runs that all save the same, one bar a series."""
    rows = frame[frame[quality].notna()].sort_values("series", ascending=False)
    axis.bar_label(axis.barh(rows["series"], rows[quality]), fmt=" %.3g")
    axis.margins(x=0.15)


def plot_tradeoff(frame: pd.DataFrame, path: Path) -> None:
    """Draw quality against cost for each protocol in the table; runs of different protocols never share axes."""
    protocols = list(frame.groupby(PROTOCOL, sort=False, dropna=False))
    heights = [max(4.2, 0.4 * len(group)) for _, group in protocols]
    figure, axes = plt.subplots(
        len(protocols), 2, figsize=(13, sum(heights)), squeeze=False, height_ratios=heights, layout="constrained"
    )
    for row, (protocol, group) in zip(axes, protocols, strict=True):
        group = group.assign(series=_series_names(group))
        one_ratio = group.loc[group["cached"] > 0, "cached"].nunique() == 1
        for axis, (quality, title) in zip(row, QUALITY.items(), strict=True):
            values = group[quality].dropna()
            wide = len(values) > 0 and values.max() > 4 * values.min() > 0
            if one_ratio:
                _plot_bars(axis, group, quality)
                axis.set(xlabel=title, xscale="log" if wide else "linear")
            else:
                _plot_lines(axis, group, quality)
                axis.set(ylabel=title, yscale="log" if wide else "linear")
            axis.grid(alpha=0.3)
        if not one_ratio:
            row[0].legend()
        row[0].set_title(protocol_name(dict(zip(PROTOCOL, protocol, strict=True))), loc="left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_alignment(result: dict[str, Any], path: Path) -> None:
    """Draw the gradient alignment of each step, the threshold, and the steps it gates."""
    threshold = result["config"]["inflection_threshold"]
    values = np.array(result["inflection"]["alignment"], dtype=float)  # None, before the first gradient, becomes NaN
    figure, axis = plt.subplots(figsize=(8, 3.6))
    axis.bar(np.arange(len(values)), values, color=np.where(values < threshold, "tab:red", "tab:blue"))
    axis.axhline(threshold, color="black", linestyle="--", linewidth=1)
    axis.set_xlabel("sampling step (0 is the noisiest)")
    axis.set_ylabel("gradient alignment")
    axis.set_title(
        f"Inflections (red): alignment below {threshold:g}, {result['config']['sampler'].upper()}-{len(values)}"
    )
    axis.set_ylim(min(-0.5, np.nanmin(values) - 0.05), 1)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_report(results: list[dict[str, Any]], folder: Path) -> pd.DataFrame:
    """Write tradeoff.csv and tradeoff.png to a folder; returns the table."""
    frame = table(results)
    frame.to_csv(folder / "tradeoff.csv", index=False)
    plot_tradeoff(frame, folder / "tradeoff.png")
    return frame


def main(arguments: list[str] | None = None) -> int:
    """Command line: report on the runs below the given folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="folders that hold runs, at any depth")
    parser.add_argument("--out", type=Path, help="where to write (default: the first path)")
    options = parser.parse_args(arguments)
    results = collect(options.paths)
    if not results:
        print(f"no finished run below {', '.join(map(str, options.paths))}", file=sys.stderr)
        return 1
    out = options.out or options.paths[0]
    out.mkdir(parents=True, exist_ok=True)
    frame = write_report(results, out)
    frame = frame.assign(method=_series_names(frame))
    print(frame[PRINTED].to_string(index=False, float_format="{:.4g}".format))
    print(f"\n{len(results)} runs: {out / 'tradeoff.csv'}, {out / 'tradeoff.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
