"""Draws a method's mask: `goc mask method=goc cache_ratio=0.5 --out mask.png` (settings as run.py's).

One column a sampling step, one row a cell; coloured by what is done there: computed, reused, corrected (reused with a
correction, or extrapolated), or computed in part (some tokens, as a selection says).
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from goc.config import Config, compose_config, label, validate
from goc.system.arguments import check_out, command_parser

if TYPE_CHECKING:
    from torch import Tensor

IN_PART = 3  # of masks.STATES
ADAPTIVE_SAMPLES = 16  # a schedule that decides for a batch as it runs is shown for this one, others for one sample


def states(config: Config) -> "Tensor":
    """What is done in each cell, as an index into masks.STATES: int64 [evaluations, blocks, 2] or [.., 1, 1]."""
    import torch

    from goc.caching.cache import AdaptiveCache
    from goc.caching.samples import SampleCaches
    from goc.models.network import MLP
    from goc.planning.denoiser import make_plan
    from goc.runs.denoiser import calibration_alone

    calibration = calibration_alone(config, torch.device("cpu"), config.execution.compile)
    plan = make_plan(config.way, config.measurement.model, calibration)
    mask = plan.mask
    if plan.adaptive:
        samples = 1 if config.way.schedule.per_sample else ADAPTIVE_SAMPLES
        _, cache = replace(calibration.generation, new_cache=plan.feature_cache).make(range(samples))
        assert isinstance(cache, AdaptiveCache | SampleCaches)
        mask = cache.mask.view(mask.shape)
    cells = mask.long() + (mask & plan.corrected()).long()
    if config.way.selection.selects:
        selection = plan.feature_cache().selection
        assert selection is not None
        cells[:, :, MLP][selection.counts(calibration.generation.model.macs.stream[0]) > 0] = IN_PART
    return cells


def main(arguments: list[str] | None = None) -> int:
    """Command line: draw the mask of the given settings."""
    parser = command_parser(__doc__, "goc mask")
    parser.add_argument("settings", nargs="*", help="as for run.py: method=..., cache_ratio=..., steps=...")
    parser.add_argument("--out", type=Path, default=Path("mask.png"))
    options = parser.parse_args(arguments)
    config = compose_config(options.settings)
    validate(config)
    from goc.caching.schedule import cache_ratio_of
    from goc.report.masks import PICTURES, draw_mask

    check_out(options.out, PICTURES)
    cells = states(config)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    ratio, name = cache_ratio_of(cells > 0), label(config.way)
    draw_mask(cells, f"{name}, {config.way.sampler.label(config.way.steps)}, {ratio:.0%} cached", options.out)
    print(f"{name}: {ratio:.1%} cached, {options.out}")
    return 0
