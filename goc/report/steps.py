"""A run's steps as a picture: how much of each is computed."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from goc.report.figures import write_figure
from goc.report.text import plot_text


def plot_steps(computed: Sequence[float], title: str, path: Path) -> None:
    """Draw the share of the cells that is computed in each step."""
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.bar(range(len(computed)), computed, color="#33415c")
    axis.locator_params(axis="x", integer=True)
    axis.set(xlabel="network evaluation (0 is the noisiest)", ylabel="share computed", ylim=(0, 1.05))
    axis.set_title(plot_text(title), loc="left", fontsize=10)
    write_figure(figure, path, dpi=110)
