"""result.json and the other files of a run's folder: what a run was, what it measured, and with which software."""

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from goc.config.identity import distinguishing
from goc.config.settings import LEFT_OPEN
from goc.models.objective import PIPELINE
from goc.report.columns import columns
from goc.report.shape import problem_of
from goc.report.text import printable
from goc.system.errors import GocError
from goc.system.files import content_key, room_for, write_atomically, write_json
from goc.system.locks import Lock

RESULT_FILE = "result.json"
INFLUENCE_FILE = "influence.safetensors"  # beside it: what each sample contributes, float32 [N] for each number
CLAIM_FILE = "run.json"  # in the folder of a run from its start: the config that the folder belongs to
FAILURE_FILE = "error.txt"  # in the folder of a sweep's job that failed: the reason, then the details
FIRST_IMAGES = "first.npy"  # the first samples of a run, uint8 [n, C, H, W], for pages that show several runs
SHOWN_IMAGES = 8  # of each run, there
LIBRARIES = ("torch", "torchvision", "torch-fidelity", "hydra-core", "omegaconf", "numpy", "scipy", "pandas")
# numpy's for uint8 [n, C, H, W]; its own reader has many ways to fail
IMAGES_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9}), (\d{1,9}), "
    rb"(\d{1,9})\), \} *\n",
    re.DOTALL,
)
LARGEST_RESULT = 64 * 2**20  # bytes of result.json; a run of 1,000 steps leaves a thousandth
LARGEST_REASON = 2**16  # bytes of error.txt that are looked at
LARGEST_IMAGES = 2**28  # bytes of first.npy: 8 of 3 x 3000 x 3000
ABOUT = "about"  # entry of the influences' header: whose they are, and their checksums
FLOATS = ("F16", "F32", "F64")  # safetensors' names


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


def read_file(path: Path, largest: int) -> bytes:
    """The content of a run's file; raises ValueError, of a few words, if it is missing, too large, or no file.

    Nothing is opened that could wait for ever (a pipe), or has no end (a device).
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is " + ("no file" if os.path.lexists(path) else "missing"))
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    if len(content) > largest:
        raise ValueError(f"{path.name} is larger than {largest / 2**20:g} MiB")
    return content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def load_result(folder: Path) -> dict[str, Any]:
    """The result in a run's folder, in the shape of `goc.report.shape`.

    Raises ValueError, of a few words, if the run has not finished there, or the file is damaged.
    """
    content = read_file(folder / RESULT_FILE, LARGEST_RESULT)
    try:
        result = json.loads(content.decode(), parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError(f"{RESULT_FILE} is damaged (nested too deep)") from error
    except ValueError as error:
        raise ValueError(f"{RESULT_FILE} is damaged ({printable(str(error))})") from error
    if problem := problem_of(result):
        raise ValueError(f"{RESULT_FILE} is damaged ({problem})")
    return dict(result)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The same, or None if the run has not finished there, or the file is damaged."""
    try:
        return load_result(folder)
    except ValueError:
        return None


def measurement_of(result: dict[str, Any]) -> dict[str, Any]:
    """What a result's numbers may be compared in.

    Older results have what a denoiser's weights leave open in their config alone.
    """
    measurement, model = result["measurement"], result["config"].get("model") or {}
    settings = {key: model[key] for key in LEFT_OPEN if key in model and measurement.get("objective") != PIPELINE}
    return settings | measurement


def compared_of(result: dict[str, Any]) -> int | None:
    """How many of a result's samples were compared with uncached ones; None: that is not known."""
    said = result.get("samples", {}).get("compared")
    if said is not None:
        return int(said)
    config = result["config"]
    count, wanted, size = (config.get(key) for key in ("num_samples", "distance_samples", "batch_size"))
    return compared_samples(count, wanted, size) if count is not None and size else None


def compared_samples(count: int, wanted: int | None, batch_size: int) -> int:
    """How many of `count` samples are compared with uncached ones: as many as wanted (None: all), in whole shards."""
    return count if wanted is None else min(count, -(-wanted // batch_size) * batch_size)


def extractor_of(result: dict[str, Any]) -> str:
    """Name of the extractor that a result's features are of."""
    return str(measurement_of(result).get("extractor"))


def run_key(result: dict[str, Any]) -> str:
    """A short name of what made a result's samples and what they are compared in: measurement, way and seed."""
    return content_key([measurement_of(result), distinguishing(result["config"])])


def write_influence(folder: Path, arrays: Mapping[str, np.ndarray], of: str | None = None) -> None:
    """Keep what each sample contributes to the numbers of a run: float32 [N] by name. of: its `run_key`."""
    with room_for(folder / INFLUENCE_FILE):
        tensors = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}
        about = {"of": of, "sha256": {name: _sha256(array) for name, array in tensors.items()}}
        # one entry, because safetensors writes several in any order
        write_atomically(folder / INFLUENCE_FILE, save(tensors, metadata={ABOUT: json.dumps(about)}))


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


class Influence(Mapping[str, np.ndarray]):
    """What `write_influence` kept, read from the file when it is asked for: many runs have much of it.

    Raises ValueError, of a few words, if it is missing, damaged, of another run, or of another N. Files of older
    versions do not say whose they are.
    """

    def __init__(self, folder: Path, result: dict[str, Any]) -> None:
        self.path = folder / INFLUENCE_FILE
        if not self.path.is_file():
            raise ValueError(f"{INFLUENCE_FILE} is " + ("no file" if os.path.lexists(self.path) else "missing"))
        try:
            with safe_open(self.path, framework="numpy") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                forms = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
                about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
            of, self.hashes = about.get("of"), dict(about.get("sha256") or {})
        except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{INFLUENCE_FILE} is damaged") from error
        if of not in (None, run_key(result)):
            raise ValueError(f"{INFLUENCE_FILE} is of another run")
        self.sizes = {name: _samples(name, shape, dtype) for name, (shape, dtype) in forms.items()}
        self._require_sizes(result)

    def _require_sizes(self, result: Mapping[str, Any]) -> None:
        count = result["config"].get("num_samples")
        converged = (result.get("converged") or {}).get("samples")
        of = {column.contribution: column.of for column in columns().values()}
        paired = next((size for name, size in self.sizes.items() if of.get(name) == "pairs"), None)
        sizes = {"all": count, "pairs": paired, "converged": converged}
        for name, size in self.sizes.items():
            known = sizes.get(of.get(name, ""))
            if (known is not None and size != known) or (count is not None and size > count):
                raise ValueError(f"{INFLUENCE_FILE} is of {size} samples, not {known or count}")

    def __getitem__(self, name: str) -> np.ndarray:
        """Float [N]; raises KeyError if it was not kept, or cannot be read any more."""
        if name not in self.sizes:
            raise KeyError(name)
        return _contribution(self.path, name, self.hashes.get(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)


def _samples(name: str, shape: tuple[int, ...], dtype: str) -> int:
    if len(shape) != 1 or not shape[0] or dtype not in FLOATS:
        raise ValueError(f"{INFLUENCE_FILE} is damaged ({printable(name)} is {dtype} {list(shape)[:8]})")
    return shape[0]


@lru_cache(maxsize=256)  # 51 MB of 50,000 samples
def _contribution(path: Path, name: str, sha256: str | None) -> np.ndarray:
    try:
        with safe_open(path, framework="numpy") as file:
            values = np.asarray(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise KeyError(name) from error
    # as others that are no numbers: whoever looks says so
    return values if sha256 in (None, _sha256(values)) else np.full_like(values, np.nan)


def read_first_images(folder: Path) -> np.ndarray | None:
    """The first samples of a run, uint8 [n, C, H, W], C = 1 or 3; None if it kept none.

    Raises ValueError, of a few words, if the file is damaged.
    """
    path = folder / FIRST_IMAGES
    if not os.path.lexists(path):
        return None
    content = read_file(path, LARGEST_IMAGES)
    header = IMAGES_HEADER.match(content)
    shape = tuple(map(int, header.groups())) if header else ()
    if header is None or shape[1] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"{FIRST_IMAGES} is damaged (no images uint8 [n, C, H, W])")
    if math.prod(shape) != len(content) - header.end():
        raise ValueError(f"{FIRST_IMAGES} is damaged (not as long as its {' x '.join(map(str, shape))} pixels)")
    return np.frombuffer(content, np.uint8, offset=header.end()).reshape(shape)


def reason_in(folder: Path) -> str:
    """Why a job failed, as it left it in its folder; raises ValueError, of a few words, if it is not told there."""
    path = folder / FAILURE_FILE
    if not path.is_file():
        raise ValueError(f"{FAILURE_FILE} is no file")
    try:
        with path.open("rb") as file:
            lines = file.read(LARGEST_REASON).decode(errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"{FAILURE_FILE} cannot be read ({error.strerror})") from error
    if not lines or not lines[0].strip():
        raise ValueError(f"{FAILURE_FILE} is empty")
    return printable(lines[0])


def claim_folder(folder: Path, config: dict[str, Any]) -> None:
    """Mark a folder as this run's; raises GocError if it holds a run of another config."""
    marker = folder / CLAIM_FILE
    if not marker.exists():
        with room_for(marker):
            write_json(marker, config)
        return
    try:
        other = dict(json.loads(read_file(marker, LARGEST_RESULT)))
    except (ValueError, TypeError, RecursionError) as error:
        raise GocError(
            f"{marker}: damaged, so whose run the folder holds is not known; move the folder away"
        ) from error
    ours, theirs = _leaves(config), _leaves(other)
    differing = [key for key in ours if theirs.get(key) != ours[key]]
    if differing:
        values = ", ".join(f"{key}={theirs.get(key)} there, {ours[key]} here" for key in differing[:2])
        raise GocError(f"{folder}: holds a run of another config ({values}); choose another hydra.run.dir")


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as flat ones, under the keys that users type."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _leaves(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


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
