"""Values that a cache holds in fewer bits: how much less it holds, how long that takes, what it does to samples."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from goc.metrics.errors import paired_error
from goc.report.results import Influence

METHODS, RATIOS, FORMATS = ("reuse", "goc", "taylorseer"), (0.5, 0.75), ("fp32", "bf16", "fp8")
DISTANCE = "relative_l2"


def table(run_in: Callable[..., dict[str, Any]], root: Path, settings: list[str]) -> pd.DataFrame:
    """A row for each method, ratio and format, the distance to the uncached run of the same seeds.

    run_in(folder, *settings) carries out a run. `more` is a row's distance less that of the same in fp32, and `error`
    its paired standard error.
    """
    rows = []
    for method, ratio in itertools.product(METHODS, RATIOS):
        exact = None
        for form in FORMATS:
            folder = root / f"{method}-{ratio}-{form}"
            choice = [f"method={method}", f"cache_ratio={ratio}", f"predictor.dtype={form}"]
            result = run_in(folder, "num_samples=500", "metrics=[]", "latency_repeats=5", *choice, *settings)
            each = Influence(folder / "run", result)[DISTANCE]
            exact = each if exact is None else exact
            rows.append(
                {
                    "method": method,
                    "cached": result["cost"]["cache_ratio"],
                    "held in": form,
                    "held_kib_per_image": result["cost"]["peak_cache_bytes"] / result["config"]["batch_size"] / 1024,
                    "time_of_uncached": result["cost"]["latency_ratio"],
                    "distance": each.mean(),
                    "more": each.mean() - exact.mean(),
                    "error": paired_error([(each, exact)]),
                }
            )
    return pd.DataFrame(rows)
