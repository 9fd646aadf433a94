"""result.json: what a run was, what it measured, and with which software."""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from goc.config import NOT_IDENTITY
from goc.files import content_key

RESULT_FILE = "result.json"
CLAIM_FILE = "run.json"  # in the folder of a run from its start: the config that the folder belongs to
FAILURE_FILE = "error.txt"  # in the folder of a sweep's job that failed: the reason, then the details
FIRST_IMAGES = "first.npy"  # the first samples of a run, uint8 [n, C, H, W], for pages that show several runs
SHOWN_IMAGES = 8  # of each run, there
LIBRARIES = ("torch", "torchvision", "timm", "torch-fidelity", "hydra-core", "omegaconf", "numpy", "scipy", "pandas")

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
LOWER_IS_BETTER = ("fid", "sfid", "kid", "mse", "relative_l2")
HIGHER_IS_BETTER = ("is", "precision", "recall", "psnr")
COST = ("cached", "gmacs", "macs_saved", "ms_per_image", "latency_ratio")


def software() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def git_commit() -> str | None:
    """Commit of the working tree this package lies in, "+changes" if it differs from it; None outside of git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed.stdout.strip() else "")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result in a run's folder, or None if the run has not finished there."""
    try:
        return json.loads((folder / RESULT_FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


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
        return content_key({key: value for key, value in settings.items() if key not in ("seed", *NOT_IDENTITY)})

    rows = [
        {
            **{column: lookup(result, path) for column, path in COLUMNS.items()},
            "protocol": without_seed(result["protocol"]),
            "point": without_seed(result["config"]),
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
