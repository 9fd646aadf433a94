"""Runs of a report whose numbers share most of their error, as those of the same seeds do."""

from pathlib import Path

import numpy as np
import pandas as pd

from goc.report.frame import over_seeds, series_names, table
from goc.report.pairs import Point, points_of
from goc.report.results import write_influence

SAMPLES = 400
COMMON = np.random.default_rng(0).normal(size=SAMPLES)  # what a seed does to the FID of every run
Runs = list[tuple[Path, dict]]


def runs_in(folder: Path, *results: dict, own: float = 0.2) -> Runs:
    """Runs whose FIDs share most of their error: own is the share of each one by itself."""
    runs = []
    for index, content in enumerate(results):
        (folder / str(index)).mkdir()
        noise = np.random.default_rng(index + 1).normal(size=SAMPLES)
        write_influence(folder / str(index), {"fid": 4 * COMMON + own * noise})
        runs.append((folder / str(index), content))
    return runs


def pointed(runs: Runs) -> tuple[pd.DataFrame, list[Point]]:
    frame = over_seeds(table([content for _, content in runs]))
    frame["series"] = series_names(frame)
    by_key = points_of(runs)
    return frame, [by_key[key] for key in zip(frame["measurement"], frame["point"], strict=True)]
