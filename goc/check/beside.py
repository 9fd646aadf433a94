"""Tables made of several cases' steps: measured times beside the least possible, and peak memory by case."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch

from goc.check.roofline import H100_SXM, estimates
from goc.check.setting import Case, Setting, Table
from goc.cli.random_weights import DOWNSAMPLING
from goc.models.dit import DiT

# the kinds of step of the roofline, and the row and column of the steps' table that measures each
FULL, CACHED, STACK = (
    ("none", "full_median_s"),
    ("reuse 50 %", "cached_median_s"),
    ("reuse stack 50 %", "cached_median_s"),
)
EAGER = {"full": FULL, "cached": CACHED, "cached, stack": STACK}
COMPILED = {"full": FULL, "cached, compiled": CACHED, "cached, stack": STACK}


def roofline(setting: Setting, measured: Mapping[Case, pd.DataFrame]) -> Table:
    """Median times of full and cached steps beside the least that an H100 SXM can take, from the shapes alone."""
    with torch.device("meta"):
        model = DiT.published(setting.model, setting.image_size // DOWNSAMPLING)

    def rows() -> Iterator[dict[str, Any]]:
        for case, frame in measured.items():
            times = frame.set_index("method").to_dict("index")
            bounds = estimates(model, case.batch, setting.cfg_scale != 1, case.precision, H100_SXM)
            least = {bound["step"]: bound for bound in bounds}
            for step, (method, column) in (COMPILED if case.compiled else EAGER).items():
                took = 1e3 * times.get(method, {}).get(column, float("nan"))
                if pd.isna(took):
                    continue
                yield {
                    "precision": case.precision,
                    "batch": case.batch,
                    "compiled": case.compiled,
                    "step": step.removesuffix(", compiled"),
                    "measured_ms": took,
                    "least_ms": least[step]["least_ms"],
                    "bound": least[step]["bound"],
                    "of_bound": least[step]["least_ms"] / took,
                }

    columns = {
        "precision": "format",
        "batch": "images",
        "compiled": "compiled",
        "step": "step",
        "measured_ms": "measured, ms ↓",
        "least_ms": "least on an H100 SXM, ms",
        "bound": "bound by",
        "of_bound": "least / measured ↑",
    }
    return Table(
        "roofline",
        "Measured steps beside the roofline",
        "Measured: median time of a step of the bare model (full), of reuse at 50 % (cached), and of reuse at "
        "site=stack. Least: the larger of operations / peak and bytes / bandwidth of an H100 SXM, whatever card was "
        "measured (python scripts/benchmark.py roofline). The bar is least / measured: 1 would be a step that wastes "
        "nothing of an H100; longer is better.",
        pd.DataFrame(rows(), columns=list(columns)),
        columns,
    )


def memory(measured: Mapping[Case, pd.DataFrame]) -> Table:
    """Most memory allocated at once above the model's own, one row a method and one column a case, in MiB."""
    columns = {case.name: frame.set_index("method")["peak_mib"] for case, frame in measured.items()}
    frame = pd.DataFrame(columns)
    order = [method for one in measured.values() for method in one["method"]]
    frame = frame.reindex(list(dict.fromkeys(order))).rename_axis("method").reset_index()
    titles = {case.name: f"{case.title}, MiB ↓" for case in measured}
    return Table(
        "memory",
        "Peak memory",
        "Most memory that torch had allocated at once above the model's own: activations and what the cache holds. "
        "Lower is better. Empty: not measured in this case.",
        frame,
        {"method": "row", **titles},
    )
