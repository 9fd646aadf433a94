"""Draws a method's mask: `python -m goc.mask method=goc cache_ratio=0.5 --out mask.png` (settings as run.py's).

One column a sampling step, one row a cell; coloured by what is done there: computed, reused, or corrected (reused with
a correction, or extrapolated).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from torch import Tensor

from goc.caching.schedule import cache_ratio_of
from goc.cli import fail
from goc.config import CONF, Config, from_hydra, label, register, validate
from goc.errors import GocError
from goc.experiment import load_model, uncached_generation
from goc.files import file_sha256, resolve
from goc.plan import make_plan

STATES = {"computed": "#dde3ea", "reused": "#4878b0", "corrected": "#e8862e"}
ADAPTIVE_SAMPLES = 16  # an adaptive schedule is shown for this batch


def states(config: Config) -> Tensor:
    """What is done in each cell, as an index into STATES: int64 [steps, blocks, 2], or [steps, 1, 1]."""
    model = load_model(config)
    weights = file_sha256(resolve(config.model.checkpoint))
    generation, key = uncached_generation(config, model, weights, torch.device("cpu"))
    plan = make_plan(config, generation, key)
    mask = plan.mask
    if plan.adaptive:
        cache = plan.new_cache()
        replace(generation, new_cache=lambda: cache).make(range(ADAPTIVE_SAMPLES))
        mask = cache.mask
    return mask.long() + (mask & plan.corrected()).long()


def draw_mask(cells: Tensor, title: str, path: Path) -> None:
    """Draw states [steps, blocks, branches] to a picture."""
    steps, blocks, branches = cells.shape
    rows = cells.flatten(1).T
    figure, axis = plt.subplots(figsize=(max(6.0, 0.22 * steps), 1.6 + 0.12 * len(rows)), layout="constrained")
    axis.pcolormesh(rows, cmap=ListedColormap(list(STATES.values())), vmin=0, vmax=2, edgecolors="white", linewidth=0.6)
    axis.invert_yaxis()
    axis.set_xticks([step + 0.5 for step in range(0, steps, 2 if steps <= 30 else 5)])
    axis.set_xticklabels([str(step) for step in range(0, steps, 2 if steps <= 30 else 5)])
    axis.set_xlabel("sampling step (0 is the noisiest)")
    if branches == 1:
        axis.set_yticks([0.5], ["all blocks"])
    else:
        axis.set_yticks([2 * block + 1 for block in range(0, blocks, 2)], [f"block {b}" for b in range(0, blocks, 2)])
    axis.set_title(title, loc="left", fontsize=10)
    handles = [Patch(color=color, label=name) for name, color in STATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Command line: draw the mask of the given settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for run.py: method=..., cache_ratio=..., steps=...")
    parser.add_argument("--out", type=Path, default=Path("mask.png"))
    options = parser.parse_args(arguments)
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = from_hydra(compose("config", overrides=options.settings))
        validate(config)
        cells = states(config)
    except (GocError, HydraException) as error:
        return fail(error)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    ratio = cache_ratio_of(cells > 0)
    draw_mask(cells, f"{label(config)}, {config.sampler.upper()}-{config.steps}, {ratio:.0%} cached", options.out)
    print(f"{label(config)}: {ratio:.1%} cached, {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
