"""The table over many runs, one row a run, and over the seeds of a point."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from goc.config.identity import told_apart
from goc.system.files import content_key

# column of the table -> path in result.json
COLUMNS = {
    "method": ("method",),
    "sampler": ("config", "sampler"),
    "steps": ("config", "steps"),
    "cached": ("cost", "cache_ratio"),
    "fid": ("metrics", "fid"),
    "sfid": ("metrics", "sfid"),
    "is": ("metrics", "is"),
    "kid": ("metrics", "kid"),
    "precision": ("metrics", "precision"),
    "recall": ("metrics", "recall"),
    "mse": ("distance", "mse"),
    "relative_l2": ("distance", "relative_l2"),
    "psnr": ("distance", "psnr"),
    "gmacs": ("cost", "gmacs_per_image"),
    "macs_saved": ("cost", "macs_saved"),
    "ms_per_image": ("cost", "ms_per_image"),
    "latency_ratio": ("cost", "latency_ratio"),
    "gradient_weights": ("config", "gradient_weights"),
    "inflection_threshold": ("config", "inflection_threshold"),
    "amplification": ("amplification",),
    "uncorrected_steps": ("inflection", "uncorrected_steps"),
    "samples": ("config", "num_samples"),
    "seed": ("config", "seed"),
    "cfg_scale": ("config", "cfg_scale"),
    "model": ("config", "model", "name"),
}
PROTOCOL = ["model", "sampler", "steps", "cfg_scale", "samples", "seed", "protocol"]  # rows compare where all are equal
# settings that tell runs of one method apart, and their short names
SETTINGS = {"gradient_weights": "w", "inflection_threshold": "threshold"}
LOWER_IS_BETTER = ("fid", "sfid", "kid", "mse", "relative_l2")
HIGHER_IS_BETTER = ("is", "precision", "recall", "psnr")
COST = ("cached", "gmacs", "macs_saved", "ms_per_image", "latency_ratio")


def protocol_name(row: Mapping[Any, Any]) -> str:
    """The protocol of a row of the table, for people; two rows have the same name only if they may be compared."""
    model, sampler, steps, cfg_scale, samples, seed, protocol = (row.get(column) for column in PROTOCOL)
    seeds = f"seed{'s' * (',' in str(seed))} {seed}"
    name = f"{model}, {str(sampler).upper()}-{steps}, guidance {cfg_scale}, {samples} samples, {seeds}"
    return f"{name} (protocol {str(protocol)[:6]})"


def table(results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run, one column a number, sorted by protocol, method and ratio.

    Beside COLUMNS: `protocol`, equal for runs that differ in nothing but the method and the seed, and `point`, equal
    for runs that differ in nothing but the seed.
    """

    def lookup(result: Any, path: tuple[str, ...]) -> Any:
        for key in path:
            result = (result or {}).get(key)
        return result

    def without_seed(settings: Mapping[str, Any]) -> str:
        return content_key({key: value for key, value in settings.items() if key != "seed"})

    rows = [
        {
            **{column: lookup(result, path) for column, path in COLUMNS.items()},
            "protocol": without_seed(result["protocol"]),
            "point": without_seed(told_apart(result["config"])),
        }
        for result in results
    ]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "protocol", "point"])
    order = ["model", "steps", "cfg_scale", "protocol", "method", "cached", "seed"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with one row for each point: the mean over its seeds, and `NAME_spread`, the standard deviation.

    `seed` lists the seeds. Points of a single run have no spread; without any other point there are no such columns.
    """
    measured = [*LOWER_IS_BETTER, *HIGHER_IS_BETTER, *COST]
    rows = []
    for _, runs in frame.groupby(["protocol", "point"], sort=False):
        row = runs.iloc[0].to_dict()
        row["seed"] = ",".join(map(str, sorted(runs["seed"])))
        if len(runs) > 1:
            numbers = runs[measured].astype(float)
            row |= numbers.mean().to_dict()
            row |= numbers.std(ddof=1).add_suffix("_spread").to_dict()
        rows.append(row)
    return pd.DataFrame(rows)


def series_names(frame: pd.DataFrame) -> pd.Series:
    """A name for each run: its method, and those settings that differ between runs of one method."""
    names = frame["method"].astype(str)
    for setting, short in SETTINGS.items():
        values = frame[setting].map(lambda value: "none" if value is None or value != value else str(value))
        varies = values.groupby(frame["method"]).transform("nunique") > 1
        names = names.where(~varies, names + f", {short} " + values)
    return names
