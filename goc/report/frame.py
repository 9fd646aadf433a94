"""The table over many runs, one row a run, and over the seeds of a point."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from goc.config.identity import told_apart
from goc.report.results import measurement_of
from goc.system.files import content_key

# column of the table -> path in result.json
COLUMNS = {
    "method": ("method",),
    "sampler": ("config", "sampler"),
    "steps": ("config", "steps"),
    "cached": ("cost", "cache_ratio"),
    "evaluations": ("cost", "evaluations"),
    "fid": ("metrics", "fid"),
    "sfid": ("metrics", "sfid"),
    "is": ("metrics", "is"),
    "kid": ("metrics", "kid"),
    "precision": ("metrics", "precision"),
    "recall": ("metrics", "recall"),
    "converged": ("converged", "mean"),
    "converged_median": ("converged", "median"),
    "converged_accuracy": ("converged", "accuracy"),
    "drift": ("distance", "drift"),
    "mse": ("distance", "mse"),
    "relative_l2": ("distance", "relative_l2"),
    "relative_l2_mean": ("distance", "relative_l2_mean"),
    "relative_l2_median": ("distance", "relative_l2_median"),
    "relative_l2_p95": ("distance", "relative_l2_p95"),
    "psnr": ("distance", "psnr"),
    "psnr_image": ("distance", "psnr_image"),
    "ssim": ("distance", "ssim"),
    "lpips": ("distance", "lpips"),
    "gmacs": ("cost", "gmacs_per_image"),
    "macs_saved": ("cost", "macs_saved"),
    "ms_per_image": ("cost", "ms_per_image"),
    "latency_ratio": ("cost", "latency_ratio"),
    "gradient_weights": ("config", "gradient_weights"),
    "inflection_threshold": ("config", "inflection_threshold"),
    "amplification": ("amplification",),
    "correct_steps": ("config", "correct_steps"),
    "uncorrected_steps": ("inflection", "uncorrected_steps"),
    "cached_steps": ("cached_steps",),
    "cached_share": ("cached_share",),
    "samples": ("config", "num_samples"),
    "seed": ("config", "seed"),
    "cfg_scale": ("config", "cfg_scale"),
    "model": ("config", "model", "name"),
}
MEASUREMENT = ["model", "cfg_scale", "samples", "seed", "measurement"]  # rows compare where all are equal
# settings that tell runs of one method apart, and their short names
SETTINGS = {"gradient_weights": "w", "inflection_threshold": "threshold", "correct_steps": "corrected at"}
LOWER_IS_BETTER = (
    "fid", "sfid", "kid", "converged", "converged_median", "drift", "mse", "relative_l2", "relative_l2_mean",
    "relative_l2_median", "relative_l2_p95", "lpips",
)  # fmt: skip
HIGHER_IS_BETTER = ("is", "precision", "recall", "psnr", "psnr_image", "ssim")
# distances to the uncached run of the same sampler and steps
TO_TARGET = ("drift", "mse", "relative_l2", "relative_l2_mean", "relative_l2_median", "relative_l2_p95", "lpips",
             "psnr", "psnr_image", "ssim")  # fmt: skip
COST = ("cached", "evaluations", "gmacs", "macs_saved", "ms_per_image", "latency_ratio")
PERCENT = ("cached", "macs_saved")  # shares, written in per cent
WITH_ERROR = (
    "fid", "sfid", "is", "kid", "precision", "recall", "converged", "converged_median", "drift", "relative_l2_mean",
    "relative_l2_median", "relative_l2_p95", "psnr_image", "ssim", "lpips",
)  # fmt: skip


def measurement_name(row: Mapping[Any, Any]) -> str:
    """The measurement of a row, for people; two rows have the same name only if they may be compared."""
    model, cfg_scale, samples, seed, measurement = (row.get(column) for column in MEASUREMENT)
    seeds = f"seed{'s' * (',' in str(seed))} {seed}"
    return f"{model}, guidance {cfg_scale}, {samples} samples, {seeds} (measurement {str(measurement)[:6]})"


def _lookup(result: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        result = (result or {}).get(key)
    return result


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """A result's row; also of an older version's, which lack some numbers."""

    def without_seed(settings: Mapping[str, Any]) -> str:
        return content_key({key: value for key, value in settings.items() if key != "seed"})

    row = {column: _lookup(result, path) for column, path in COLUMNS.items()}
    row |= {
        f"{column}_se": _lookup(result, (*COLUMNS[column][:-1], f"{COLUMNS[column][-1]}_se")) for column in WITH_ERROR
    }
    if row["evaluations"] is None and row["steps"] is not None and row["cached"] is not None:
        row["evaluations"] = row["steps"] * (1 - row["cached"])
    row["measurement"] = without_seed(measurement_of(result))
    row["point"] = without_seed(told_apart(result["config"]))
    return row


def table(results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run, one column a number, sorted by measurement, cost and method.

    Beside COLUMNS: NAME_se, the standard errors; `measurement`, equal for runs that differ in nothing but the way and
    the seed, and `point`, equal for runs that differ in nothing but the seed.
    """
    columns = [*COLUMNS, *(f"{column}_se" for column in WITH_ERROR), "measurement", "point"]
    frame = pd.DataFrame([_row(result) for result in results], columns=columns)
    order = [
        "model",
        "cfg_scale",
        "measurement",
        "evaluations",
        "method",
        "steps",
        "weights",
        "inflection_threshold",
        "seed",
    ]
    frame = frame.assign(weights=frame["gradient_weights"].map(str))
    return frame.sort_values(order, kind="stable", ignore_index=True).drop(columns="weights")


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with one row for each point: the mean over its seeds, and `NAME_spread`, the standard deviation.

    `seed` lists the seeds. Standard errors are those of the mean. Points of a single run have no spread; without any
    other point there are no such columns.
    """
    measured = [*LOWER_IS_BETTER, *HIGHER_IS_BETTER, *COST]
    errors = [f"{column}_se" for column in WITH_ERROR]
    rows = []
    for _, runs in frame.groupby(["measurement", "point"], sort=False):
        row = runs.iloc[0].to_dict()
        row["seed"] = ",".join(map(str, sorted(runs["seed"])))
        if len(runs) > 1:
            numbers = runs[measured].astype(float)
            row |= numbers.mean().to_dict()
            row |= numbers.std(ddof=1).add_suffix("_spread").to_dict()
            row |= ((runs[errors].astype(float) ** 2).sum(min_count=len(runs)) ** 0.5 / len(runs)).to_dict()
        rows.append(row)
    return pd.DataFrame(rows)


def is_uncached(frame: pd.DataFrame) -> pd.Series:
    """Which rows compute everything."""
    return frame["cached"] == 0


def series_names(frame: pd.DataFrame) -> pd.Series:
    """A name for the line each run belongs to.

    Its method, with those settings that differ between runs of one method, and with its sampler and steps where cached
    runs have several; without a cache, "no cache", or where there are several steps the sampler with fewer steps.
    """
    names = frame["method"].astype(str)
    for setting, short in SETTINGS.items():
        values = frame[setting].map(lambda value: "none" if value is None or value != value else str(value))
        varies = values.groupby([frame["method"], frame["measurement"]]).transform("nunique") > 1
        names = names.where(~varies, names + f", {short} " + values)
    uncached = is_uncached(frame)
    samplers = frame["sampler"].astype(str).str.upper()
    solver = samplers + "-" + frame["steps"].astype(str)
    if solver[~uncached].nunique() > 1:
        names = names.where(uncached, names + ", " + solver)
    several = frame["steps"].where(uncached).groupby([frame["measurement"], samplers]).transform("nunique") > 1
    names = names.mask(uncached & several, samplers + ", fewer steps")
    return names.mask(uncached & ~several & (names == "none"), "no cache")


def relative_cost(frame: pd.DataFrame) -> pd.Series:
    """Measured time of a row in uncached steps: its latency ratio times its steps; NaN if it was not timed."""
    ratio = frame["latency_ratio"].astype(float).where(~is_uncached(frame), 1.0)
    timed = frame["latency_ratio"].notna()
    return (ratio * frame["steps"].astype(float)).where(timed, math.nan)
