"""A pipeline's files: found, looked at before anything is loaded, hashed, and loaded."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import is_accelerate_available, is_transformers_available
from diffusers.utils import logging as diffusers_logging
from torch import nn

from goc.models.parts import check_tokenizer, load_part, part_files, read_object, reason
from goc.pipelines.session import TRANSFORMERS, PipelineError
from goc.system.files import files_sha256

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
PLAIN = re.compile(r"[A-Za-z]\w*")  # a name of a folder, library or class
LIBRARIES = ("diffusers", "transformers")
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
        index = read_object(folder / INDEX)
    except ValueError as error:
        raise PipelineError(f"model.pipeline={folder}: {error}") from error
    if not isinstance(index.get("_class_name"), str):
        raise PipelineError(f"model.pipeline={folder}: its {INDEX} names no class of diffusers")
    return index


def components_of(folder: Path) -> dict[str, tuple[str, str]]:
    """A pipeline's parts, which are folders beside its index: (library, class) by name.

    Raises PipelineError, before anything is read of them, if one is no folder there, or brings code of its own.
    """
    parts = {}
    for name, part in read_index(folder).items():
        if name.startswith("_") or not isinstance(part, list) or part[:1] == [None]:
            continue
        prefix = f"model.pipeline={folder}: its {INDEX} names"
        if len(part) != 2 or not all(isinstance(word, str) for word in part):
            raise PipelineError(f"{prefix} the part {name}: {part}, which must be a library and a class")
        # not by name alone: "/usr/share" and "../../etc" are no folders of a pipeline
        if not PLAIN.fullmatch(name) or not (folder / name).is_dir():
            raise PipelineError(f"{prefix} the part {name}, which is no folder beside it")
        library, cls = part
        code = folder / name / f"{library}.py"  # which a library would run, if it is told to
        if code.exists() or (library not in LIBRARIES and class_of(library, cls) is None):
            raise PipelineError(
                f"{prefix} the part {name}: {library}.{cls}, which is no class of diffusers or transformers"
            )
        parts[name] = (library, cls)
    return parts


def class_of(library: str, name: str) -> Any:
    """The class of a part: diffusers', transformers', or that of one kind of pipelines; None: there is none."""
    source: Any = None
    if library == "diffusers":
        source = diffusers
    elif library == "transformers" and is_transformers_available():
        import transformers

        source = transformers
    elif PLAIN.fullmatch(library):
        source = getattr(diffusers.pipelines, library, None)
    cls = getattr(source, name, None) if PLAIN.fullmatch(name) else None
    return cls if isinstance(cls, type) and hasattr(cls, "from_pretrained") else None


def pipeline_class(folder: Path) -> Any:
    """The class of a pipeline that makes images or videos of prompts with a transformer, or two that take turns.

    Raises PipelineError for others: without a transformer, or without prompts.
    """
    index = read_index(folder)
    name, prefix = index["_class_name"], f"model.pipeline={folder}:"
    if not is_transformers_available():
        raise PipelineError(f"{prefix} needs the package transformers: pip install 'goc[pipelines]'")
    cls = getattr(diffusers, name, None) if PLAIN.fullmatch(name) else None
    if not isinstance(cls, type):
        raise PipelineError(f"{prefix} diffusers {diffusers.__version__} has no {name}")
    if not issubclass(cls, diffusers.DiffusionPipeline):
        needed = getattr(cls, "_backends", None)  # of what stands in for a class whose packages are absent
        why = f"needs the packages {', '.join(needed)}" if needed else f"{name} is no pipeline of diffusers"
        raise PipelineError(f"{prefix} {why}")
    parts = [part for part, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    if not set(TRANSFORMERS) & set(parts):
        unet = ", but a UNet" if "unet" in parts else ""
        raise PipelineError(f"{prefix} {name} has no transformer{unet}; caches are for pipelines with a transformer")
    if "prompt" not in arguments_of_call(cls):
        raise PipelineError(
            f"{prefix} {name} takes no prompt; run.py runs pipelines that make images or videos of prompts"
        )
    return cls


def makes_videos(cls: Any) -> bool:
    """Whether a pipeline's samples have frames."""
    return "num_frames" in arguments_of_call(cls)


def check_extractor(cls: Any, extractor: str | None) -> None:
    """Raise PipelineError for features of a pipeline's videos, whose frames are scored one by one."""
    if extractor is not None and makes_videos(cls):
        raise PipelineError(f"model.extractor={extractor}: must be null with {cls.__name__}, which makes videos")


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
    for name in components_of(folder):
        files += part_files(folder / name)
    return files_sha256(folder, files)


def quiet_loading() -> None:
    """No progress bars for files that are loaded: they are of the libraries' parts, and a run has its own."""
    diffusers_logging.disable_progress_bar()
    if is_transformers_available():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def load_pipeline(folder: Path, dtype: torch.dtype | None, device: torch.device, offload: str | None = None) -> Any:
    """The pipeline in a folder, of a class that `pipeline_class` takes; dtype None: float32. offload: as the setting.

    Raises PipelineError if it is damaged or not whole, which names the part, or needs a package that is not installed.
    """
    cls = pipeline_class(folder)
    lacking = {name: None for name, part in read_index(folder).items() if isinstance(part, list) and part[:1] == [None]}
    quiet_loading()
    loaded = {}
    for name, names in components_of(folder).items():
        try:
            part = _load_model(class_of(*names), folder / name, dtype or torch.float32)
        except ValueError as error:
            raise PipelineError(f"model.pipeline={folder}: its part {name}: {error}") from error
        if part is not None:
            loaded[name] = part
    try:
        pipe = cls.from_pretrained(folder, local_files_only=True, **lacking, **loaded)
    except Exception as error:  # what a damaged file can mean to the libraries has no end, and no common class
        raise PipelineError(f"model.pipeline={folder}: not a {cls.__name__}, or damaged ({reason(error)})") from error
    pipe.set_progress_bar_config(disable=True)
    for name, part in pipe.components.items():
        try:
            _check_part(part, folder / name, name in loaded)
        except ValueError as error:
            raise PipelineError(f"model.pipeline={folder}: its part {name}: {error}") from error
        # diffusers may leave a part in the format of its file
        if dtype is not None and isinstance(part, nn.Module) and not getattr(part, "_keep_in_fp32_modules", None):
            part.to(dtype)
    if offload is None:
        return pipe.to(device)
    if device.type == "cpu" or not is_accelerate_available():
        raise PipelineError(f"offload={offload}: must be null without a GPU, and without the package accelerate")
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def _load_model(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A part of a pipeline that is a model, whole; None: it is none, and the pipeline loads it. Raises ValueError."""
    import transformers

    if cls is not None and issubclass(cls, diffusers.ModelMixin):
        return load_part(cls, folder, torch_dtype=dtype, low_cpu_mem_usage=is_accelerate_available())
    if cls is not None and issubclass(cls, transformers.PreTrainedModel):
        return load_part(cls, folder, dtype=dtype, trust_remote_code=False)
    return None


def _check_part(part: Any, folder: Path, counted: bool) -> None:
    """Raise ValueError for a part that the libraries loaded, and that is not what its files are."""
    if isinstance(part, nn.Module) and not counted:
        raise ValueError("is of no class whose weights can be counted")
    if isinstance(part, diffusers.SchedulerMixin) and "_class_name" not in read_object(folder / SCHEDULER):
        raise ValueError(f"its {SCHEDULER} names no scheduler")
    check_tokenizer(getattr(part, "tokenizer", part), folder)
