"""result.json: what a run was, what it measured, and with which software."""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

RESULT_FILE = "result.json"
LIBRARIES = ("torch", "torchvision", "timm", "torch-fidelity", "hydra-core", "omegaconf", "numpy", "scipy", "pandas")

# column of the table -> path in result.json
COLUMNS = {
    "method": ("method",),
    "sampler": ("config", "sampler"),
    "steps": ("config", "steps"),
    "cached": ("cost", "cache_ratio"),
    "fid": ("metrics", "fid"),
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
    "clock": ("config", "clock"),
    "amplification": ("amplification",),
    "uncorrected_steps": ("inflection", "uncorrected_steps"),
    "samples": ("config", "num_samples"),
    "seed": ("config", "seed"),
    "cfg_scale": ("config", "cfg_scale"),
    "model": ("config", "model", "name"),
}
PROTOCOL = ["model", "sampler", "steps", "cfg_scale", "samples", "seed"]  # columns; runs compare where all are equal


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


def protocol_name(row: Mapping[str, Any]) -> str:
    """The protocol of a row of the table, for people; two rows have the same name only if they may be compared."""
    model, sampler, steps, cfg_scale, samples, seed = (row.get(column) for column in PROTOCOL)
    return f"{model}, {str(sampler).upper()}-{steps}, guidance {cfg_scale}, {samples} samples, seed {seed}"


def table(results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run, one column a number, sorted by protocol, method and ratio."""

    def lookup(result: Any, path: tuple[str, ...]) -> Any:
        for key in path:
            result = (result or {}).get(key)
        return result

    rows = [{column: lookup(result, path) for column, path in COLUMNS.items()} for result in results]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.sort_values(["model", "steps", "cfg_scale", "method", "cached"], kind="stable", ignore_index=True)
