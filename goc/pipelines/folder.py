"""A pipeline's files: found, looked at before anything is loaded, hashed, and loaded."""

import functools
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from goc.pipelines.session import PipelineError
from goc.system import torchvision  # noqa: F401  (first, as diffusers imports torchvision)
from goc.system.files import file_sha256

# isort: split
import diffusers
from diffusers.utils import is_accelerate_available, is_transformers_available
from diffusers.utils import logging as diffusers_logging

INDEX = "model_index.json"
FORMAT = "a folder in diffusers' format, or its name on the hub"


def find_pipeline(name: str) -> Path:
    """The folder of a pipeline: itself, or that of its files from the hub. Raises PipelineError."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise PipelineError(f"model.pipeline={name}: has no {INDEX}; must be {FORMAT}")
        return folder
    if name.count("/") != 1 or folder.exists():
        raise PipelineError(f"model.pipeline={name}: no such folder; must be {FORMAT}")
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(diffusers.DiffusionPipeline.download(name))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise PipelineError(f"model.pipeline={name}: no such folder, nor to be had from the hub") from error


def read_index(folder: Path) -> dict[str, Any]:
    """What a pipeline is made of, by its index; raises PipelineError."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"model.pipeline={folder}: its {INDEX} is damaged ({error})") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise PipelineError(f"model.pipeline={folder}: its {INDEX} names no class of diffusers")
    return index


def components_of(index: Mapping[str, Any]) -> list[str]:
    """Names of the parts that a pipeline has, which are folders beside its index."""
    return [name for name, part in index.items() if isinstance(part, list) and part and part[0] is not None]


def pipeline_class(folder: Path) -> Any:
    """The class of a pipeline that makes images of prompts with one transformer.

    Raises PipelineError for others: without a transformer or with two, without prompts, or of videos.
    """
    index = read_index(folder)
    name, parts, prefix = index["_class_name"], components_of(index), f"model.pipeline={folder}:"
    if not is_transformers_available():
        raise PipelineError(f"{prefix} needs the package transformers: pip install -e '.[pipelines]'")
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise PipelineError(f"{prefix} diffusers {diffusers.__version__} has no {name}")
    if "transformer" not in parts:
        unet = ", but a UNet" if "unet" in parts else ""
        raise PipelineError(f"{prefix} {name} has no transformer{unet}; caches are for pipelines with a transformer")
    if "transformer_2" in parts:
        raise PipelineError(f"{prefix} {name} has two transformers that share the steps, which caches cannot follow")
    arguments = arguments_of_call(cls)
    if "num_frames" in arguments:
        raise PipelineError(
            f"{prefix} {name} makes videos, which run.py cannot score; goc.enable_cache puts a cache into it"
        )
    if "prompt" not in arguments:
        raise PipelineError(f"{prefix} {name} takes no prompt; run.py runs text-to-image pipelines")
    return cls


def arguments_of_call(cls: Any) -> list[str]:
    """Names of the arguments of a pipeline's call."""
    return list(inspect.signature(cls.__call__).parameters)[1:]


def check_call(cls: Any, call: Iterable[str], cfg_scale: float) -> None:
    """Raise PipelineError for an argument, or guidance, that a pipeline's call does not have."""
    arguments = arguments_of_call(cls)
    for key in call:
        if key not in arguments:
            raise PipelineError(f"model.call.{key}: {cls.__name__} has no such argument; it has {', '.join(arguments)}")
    if cfg_scale != 1.0 and "guidance_scale" not in arguments:
        raise PipelineError(f"cfg_scale={cfg_scale:g}: must be 1 with {cls.__name__}, which has no guidance_scale")


def pipeline_sha256(folder: Path) -> str:
    """SHA-256 over the files of a pipeline's parts, their names among them, and its index."""
    files = [folder / INDEX]
    for name in components_of(read_index(folder)):
        files += sorted(path for path in (folder / name).rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): _sha256(path, *_state(path)) for path in files}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """Of a file as it is now: the jobs of a sweep in one process read its gigabytes once."""
    return file_sha256(path)


def quiet_loading() -> None:
    """No progress bars for files that are loaded: they are of the libraries' parts, and a run has its own."""
    diffusers_logging.disable_progress_bar()
    if is_transformers_available():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def load_pipeline(folder: Path, dtype: torch.dtype | None, device: torch.device) -> Any:
    """The pipeline in a folder, of a class that `pipeline_class` takes; dtype None: float32.

    Raises PipelineError if it is damaged, or needs a package that is not installed.
    """
    cls = pipeline_class(folder)
    lacking = {name: None for name, part in read_index(folder).items() if isinstance(part, list) and part[:1] == [None]}
    quiet_loading()
    try:
        pipe = cls.from_pretrained(
            folder,
            dtype=dtype or torch.float32,
            local_files_only=True,
            low_cpu_mem_usage=is_accelerate_available(),
            **lacking,
        )
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PipelineError(f"model.pipeline={folder}: not a {cls.__name__}, or damaged ({reason})") from error
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():  # diffusers may leave a part in the format of its file
        if dtype is not None and isinstance(part, nn.Module) and not getattr(part, "_keep_in_fp32_modules", None):
            part.to(dtype)
    return pipe.to(device)
