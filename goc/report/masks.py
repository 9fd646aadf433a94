"""Pictures of masks: one column a sampling step, one row a cell, coloured by what is done there."""

from pathlib import Path

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from goc.report.figures import write_figure

PICTURES = ("png", "svg", "pdf", "jpg", "webp")  # what a picture's name may end in
STATES = {"computed": "#dde3ea", "reused": "#4878b0", "corrected": "#e8862e", "computed in part": "#8fb3a0"}
USUAL = 3  # of these, in every legend


def draw_mask(cells: Tensor, title: str, path: Path) -> None:
    """Draw states [steps, blocks, branches] to a picture."""
    steps, blocks, branches = cells.shape
    rows = cells.flatten(1).T
    figure = Figure(figsize=(max(6.0, 0.22 * steps), 1.6 + 0.12 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.pcolormesh(rows, cmap=ListedColormap(list(STATES.values())), vmin=0, vmax=len(STATES) - 1,
                    edgecolors="white", linewidth=0.6)  # fmt: skip
    axis.invert_yaxis()
    named = range(0, steps, 2 if steps <= 30 else 5)
    axis.set_xticks([step + 0.5 for step in named], [str(step) for step in named])
    axis.set_xlabel("network evaluation (0 is the noisiest)")
    if branches == 1:
        axis.set_yticks([0.5], ["all blocks"])
    else:
        axis.set_yticks([2 * block + 1 for block in range(0, blocks, 2)], [f"block {b}" for b in range(0, blocks, 2)])
    axis.set_title(title, loc="left", fontsize=10)
    shown = list(STATES.items())[: max(USUAL, int(cells.max()) + 1)]
    handles = [Patch(color=color, label=name) for name, color in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(shown), frameon=False, fontsize=8)
    write_figure(figure, path, dpi=110)
