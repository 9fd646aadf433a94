"""Pictures of the gradient alignment, by which the gradient queue is gated: of one run, and of several models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from goc.report.figures import write_figure
from goc.report.frame import row_of
from goc.report.text import plot_text

PANELS = 60  # of one picture


def alignment_of(result: dict[str, Any]) -> np.ndarray:
    """The alignment of each step [steps]; NaN before there is a gradient."""
    return np.array(result["inflection"]["alignment"], dtype=float)


def plot_alignment(result: dict[str, Any], path: Path) -> None:
    """Draw the gradient alignment of each step, the threshold, and the steps it gates."""
    threshold = result["config"]["inflection_threshold"]
    values = alignment_of(result)
    figure = Figure(figsize=(8, 3.6))
    axis = figure.subplots(gridspec_kw={"left": 0.08, "right": 0.99, "bottom": 0.14, "top": 0.91})
    axis.bar(np.arange(len(values)), values, color=np.where(values < threshold, "tab:red", "tab:blue"))
    axis.axhline(threshold, color="black", linestyle="--", linewidth=1)
    axis.locator_params(axis="x", integer=True)
    axis.set_xlabel("sampling step (0 is the noisiest)")
    axis.set_ylabel("gradient alignment")
    axis.set_title(f"Inflections (red): alignment below {threshold:g}, {plot_text(row_of(result)['solver'])}")
    axis.set_ylim(min(-0.5, np.nanmin(values) - 0.05), 1)
    write_figure(figure, path, dpi=120)


def plot_alignments(results: Sequence[dict[str, Any]], path: Path) -> str:
    """Draw the alignment of models of one family together, a panel a family and solver; nothing if there are none.

    Of a model's runs with a solver, which measured the same, the first one is drawn. Returns what was left out, as a
    line of text; empty if that is nothing.
    """
    panels: dict[str, dict[str, np.ndarray]] = {}
    for result in results:
        if result["inflection"].get("alignment") is not None:
            row = row_of(result)
            panel = panels.setdefault(f"{row['family'] or row['model']}, {row['solver']}", {})
            panel.setdefault(str(row["model"]), alignment_of(result))
    panels = {name: models for name, models in sorted(panels.items()) if len(models) > 1}
    if not panels:
        return ""
    several, panels = len(panels), dict(list(panels.items())[:PANELS])
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, models) in zip(axes.flat, panels.items(), strict=False):
        for model, values in sorted(models.items()):
            axis.plot(np.arange(len(values)), values, marker=".", linewidth=1.2, label=plot_text(model))
        axis.axhline(0.0, color="black", linestyle="--", linewidth=0.8)
        axis.locator_params(axis="x", integer=True)
        axis.set(title=plot_text(name), xlabel="network evaluation (0 is the noisiest)", ylabel="gradient alignment")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    write_figure(figure, path, dpi=110)
    return f"{path.name} has {PANELS} of {several} panels" if several > PANELS else ""
