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


def content(
    method: str,
    cached: float,
    metrics: dict,
    steps: int = 20,
    seed: int = 0,
    cfg_scale: float = 1.0,
    model: str = "digits",
    distance: dict | None = None,
    cost: dict | None = None,
    config: dict | None = None,
    **more: object,
) -> dict:
    """What a run leaves in its result.json, as far as a report needs it; distance, cost, config, more: added to it."""
    return {
        "method": method,
        "config": {"sampler": "ddim", "steps": steps, "num_samples": SAMPLES, "seed": seed, "cfg_scale": cfg_scale,
                   "gradient_weights": [], "inflection_threshold": None, "cache_ratio": cached or None,
                   "schedule": {"name": method}, "model": {"name": model}, **(config or {})},
        "metrics": metrics,
        "distance": distance or {},
        "cost": {"cache_ratio": cached, "evaluations": steps * (1 - cached), **(cost or {})},
        "inflection": {},
        "measurement": {"model": model, "cfg_scale": cfg_scale, "seed": seed, "extractor": "inception"},
        **more,
    }  # fmt: skip


def runs_in(folder: Path, *results: dict, noise_share: float = 0.2) -> Runs:
    """Runs whose FIDs share most of their error: noise_share is the share of each one by itself."""
    runs = []
    for index, result in enumerate(results):
        (folder / str(index)).mkdir(parents=True)
        noise = np.random.default_rng(index + 1).normal(size=SAMPLES)
        write_influence(folder / str(index), {"fid": 4 * COMMON + noise_share * noise})
        runs.append((folder / str(index), result))
    return runs


def pointed(runs: Runs) -> tuple[pd.DataFrame, list[Point]]:
    frame = over_seeds(table([result for _, result in runs]))
    frame["series"] = series_names(frame)
    by_key = points_of(runs)
    return frame, [by_key[key] for key in zip(frame["measurement"], frame["point"], strict=True)]
