"""Images a second from noise to metrics: what the decoder, the features and writing leave of the sampler's rate."""

from typing import Any

import pandas as pd

from goc.check.pipeline_parts import TINY, PaperRow
from goc.check.pipeline_rates import IN_TURN, OVERLAPPED, SAMPLER, measure
from goc.check.setting import Outcome, Setting, Table

FULL = PaperRow(steps=20, batches=3)
COLUMNS = {
    "part": "part",
    "images_per_s": "images/s ↑",
    "seconds_a_batch": "seconds a batch ↓",
    "error_s": "standard error, s",
    "of_sampler": "of the sampler's rate ↑",
    "hours": "hours for all images ↓",
    "hours_error": "standard error, h",
}


def check(setting: Setting) -> Outcome:
    """One row of a paper's table; tiny: with the smallest decoder and extractor."""
    row = TINY if setting.is_tiny else FULL
    frame = measure(row)
    return Outcome(table(frame, row), [], [said(frame, row)])


def said(frame: pd.DataFrame, row: PaperRow) -> str:
    """The table as a sentence."""
    parts: dict[Any, dict[Any, Any]] = frame.set_index("part").to_dict("index")
    rate = {name: parts[name]["images_per_s"] for name in (SAMPLER, IN_TURN, OVERLAPPED)}
    return (
        f"Without a cache the sampler makes {rate[SAMPLER]:.3g} images/s; with decoder, features and writing one after "
        f"the other {rate[IN_TURN]:.3g}, overlapped {rate[OVERLAPPED]:.3g}. {row.images:,} images and all metrics take "
        f"{parts[OVERLAPPED]['hours']:.3g} hours."
    )


def table(frame: pd.DataFrame, row: PaperRow) -> Table:
    """The part's table."""
    return Table(
        "pipeline",
        "From noise to metrics",
        f"{row.model} at {row.image_size} pixels, DDIM-{row.steps} with guidance, {row.precision}, {row.batch} images "
        "at once, without a cache, random weights: each part alone, and the whole, one after the other and overlapped. "
        f"Hours are for {row.images:,} images; those of the whole are with the metrics.",
        frame,
        COLUMNS,
    )
