"""result.json and the other files of a run's folder: what a run was, what it measured, and with which software."""

import contextlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from goc.models.objective import DIFFUSION
from goc.system.errors import GocError
from goc.system.files import room_for, write_atomically, write_json
from goc.system.locks import Lock

RESULT_FILE = "result.json"
INFLUENCE_FILE = "influence.safetensors"  # beside it: what each sample contributes, float32 [N] for each number
CLAIM_FILE = "run.json"  # in the folder of a run from its start: the config that the folder belongs to
FAILURE_FILE = "error.txt"  # in the folder of a sweep's job that failed: the reason, then the details
FIRST_IMAGES = "first.npy"  # the first samples of a run, uint8 [n, C, H, W], for pages that show several runs
SHOWN_IMAGES = 8  # of each run, there
LIBRARIES = ("torch", "torchvision", "torch-fidelity", "hydra-core", "omegaconf", "numpy", "scipy", "pandas")
PARTS = ("config", "metrics", "distance", "cost", "inflection")  # objects that every result has


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
    """The result in a run's folder, or None if the run has not finished there, or the file is damaged."""
    try:
        result = json.loads((folder / RESULT_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(result, dict) or not all(isinstance(result.get(part), dict) for part in PARTS):
        return None
    compared = isinstance(result.get("measurement", result.get("protocol")), dict)
    known = "method" in result and isinstance(result["config"].get("model"), dict)
    return result if known and compared else None


def measurement_of(result: dict[str, Any]) -> dict[str, Any]:
    """What a result's numbers may be compared in.

    Older results call it protocol, with the sampler and its steps in it, and do not name the objective, of which there
    was one.
    """
    found = result.get("measurement") or result["protocol"]
    return {"objective": DIFFUSION} | {key: value for key, value in found.items() if key not in ("sampler", "steps")}


def extractor_of(result: dict[str, Any]) -> str:
    """Name of the extractor that a result's features are of."""
    return str(measurement_of(result).get("extractor"))


def write_influence(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep what each sample contributes to the numbers of a run: float32 [N] by name."""
    with room_for(folder / INFLUENCE_FILE):
        tensors = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}
        write_atomically(folder / INFLUENCE_FILE, save(tensors))


def read_influence(folder: Path, result: dict[str, Any]) -> dict[str, np.ndarray]:
    """What `write_influence` kept; raises ValueError, of a few words, if it is missing, damaged, or of another N."""
    path = folder / INFLUENCE_FILE
    if not path.exists():
        raise ValueError(f"{INFLUENCE_FILE} is missing")
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{INFLUENCE_FILE} is damaged") from error
    count = result["config"].get("num_samples")
    for name in ("fid", "sfid", "is"):
        if name in arrays and arrays[name].shape != (count,):
            raise ValueError(f"{INFLUENCE_FILE} is of {len(arrays[name])} samples, not {count}")
    return arrays


def claim_folder(folder: Path, own: dict[str, Any]) -> None:
    """Mark a folder as this run's; raises GocError if it holds a run of another config."""
    marker = folder / CLAIM_FILE
    if not marker.exists():
        with room_for(marker):
            write_json(marker, own)
        return
    try:
        other = dict(json.loads(marker.read_text()))
    except (ValueError, TypeError) as error:
        raise GocError(
            f"{marker}: damaged, so whose run the folder holds is not known; move the folder away"
        ) from error
    ours, theirs = _leaves(own), _leaves(other)
    differing = [key for key in ours if theirs.get(key) != ours[key]]
    if differing:
        values = ", ".join(f"{key}={theirs.get(key)} there, {ours[key]} here" for key in differing[:2])
        raise GocError(f"{folder}: holds a run of another config ({values}); choose another hydra.run.dir")


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as flat ones, under the keys that users type."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found |= _leaves(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


@contextlib.contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Holds a run's folder for this run alone; raises GocError if another one is in it now."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Lock(folder / ".running.lock", blocking=False):
            yield
    except Timeout as error:
        raise GocError(
            f"{folder}: another run is at work in this folder; wait for it, or choose another name"
        ) from error


def collect(paths: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and result of every finished run below the paths, each once, in a fixed order."""
    folders = sorted({file.parent.resolve() for path in paths for file in path.rglob(RESULT_FILE)})
    return [(folder, result) for folder in folders if (result := read_result(folder)) is not None]


def skipped(paths: list[Path]) -> list[tuple[Path, str]]:
    """(folder, why) of every run below the paths that has no result to report: not finished, or a damaged file."""
    folders = {
        file.parent.resolve() for path in paths for name in (CLAIM_FILE, RESULT_FILE) for file in path.rglob(name)
    }
    return [
        (folder, f"{RESULT_FILE} is damaged" if (folder / RESULT_FILE).exists() else "not finished")
        for folder in sorted(folders)
        if read_result(folder) is None
    ]


def failures(paths: list[Path]) -> list[tuple[str, str]]:
    """(run, reason) of every run below the paths that failed when it was last tried."""
    files = sorted({file.resolve() for path in paths for file in path.rglob(FAILURE_FILE)})
    return [(file.parent.name, file.read_text().splitlines()[0]) for file in files]
