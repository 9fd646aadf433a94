"""Folders in the formats of diffusers and transformers: the files that decide, and weights of which all are there."""

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from goc.models.checkpoint import listed, require_finite
from goc.system.files import read_json

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
ADAPTER = "adapter_config.json"
WITHOUT_EFFECT = (".md", ".msgpack", ".h5")  # notes, and weights of other frameworks
STEM = r"(?:diffusion_pytorch_model|pytorch_model|model)"
PICKLED = re.compile(rf"{STEM}(?:-\d+-of-\d+)?\.bin(?:\.index\.json)?")  # read where there is nothing in safetensors
SAFE = re.compile(rf"{STEM}\.safetensors(?:\.index\.json)?")
# weights in another precision, which are only read when they are asked for by name
VARIANT = re.compile(
    rf"{STEM}(?:-\d+-of-\d+)?\.[^.]+(?:-\d+-of-\d+)?\.(?:safetensors|bin)|{STEM}\.(?:safetensors|bin)\.index\.[^.]+\.json"
)
ALLOWED = "diffusion_pytorch_model.safetensors or model.safetensors, in one file or in shards with their index"
COUNTS = re.compile(r"layers|depth|blocks", re.IGNORECASE)
MOST_LAYERS = 10_000  # beyond which a number is no model's, and building that many would take all memory


def part_files(folder: Path) -> list[Path]:
    """The files of a model, tokenizer or scheduler that decide what it computes, in order.

    All of the folder but hidden files, notes, weights of other frameworks and of other precisions, and pickled weights
    beside those in safetensors.
    """
    safe = any(SAFE.fullmatch(path.name) for path in folder.iterdir())
    return sorted(path for path in folder.rglob("*") if path.is_file() and _decides(path.relative_to(folder), safe))


def _decides(path: Path, safe: bool) -> bool:
    if any(name.startswith(".") for name in path.parts) or path.suffix in WITHOUT_EFFECT:
        return False
    return not (VARIANT.fullmatch(path.name) or (safe and PICKLED.fullmatch(path.name)))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; raises ValueError, of one line, if it is missing, damaged or anything else."""
    if not path.exists():
        raise ValueError(f"has no {path.name}")
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"its {path.name} is damaged ({reason(error)})") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {path.name} is damaged (must hold an object)")
    return value


def reason(error: BaseException) -> str:
    """The first line of an error that says something; not torch's, which explains how to run the code in a pickle."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, pickle.UnpicklingError):
        return "truncated, or a pickle that would run code"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """All numbers in what a JSON file holds, with the names that they are under."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, name)
    elif isinstance(value, int | float):
        yield name, value


def check_files(folder: Path) -> None:
    """Look at a model's folder before anything of it is loaded; raises ValueError, of one line.

    For a configuration that is damaged or of a size that no model has, shards outside of the folder or missing, and
    an adapter, which would bring weights of another folder.
    """
    for name, number in _numbers(read_object(folder / CONFIG), ""):
        if COUNTS.search(name) and not abs(number) <= MOST_LAYERS:
            raise ValueError(f"its {CONFIG} says {name}={number:g}: must be at most {MOST_LAYERS}")
    names = [path.name for path in part_files(folder) if path.parent == folder]
    if not any(SAFE.fullmatch(name) or PICKLED.fullmatch(name) for name in names):
        raise ValueError(f"has no weights: must be {ALLOWED}")
    if (folder / ADAPTER).exists():
        raise ValueError(f"has an {ADAPTER}: must be weights that its adapter is merged into")
    for index in (folder / name for name in names if name.endswith(".index.json")):
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ValueError(f"its {index.name} is damaged (must name the file of each tensor)")
        for shard in sorted(set(shards.values())):
            if Path(shard).name != shard or not (folder / shard).is_file():
                raise ValueError(f"its {index.name} names {shard}, which is no file beside it")


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Raise ValueError if the folder that a tokenizer was loaded from has no vocabulary.

    transformers then makes one that knows no token, and goes on: all prompts are the same.
    """
    files = set(getattr(tokenizer, "vocab_files_names", {}).values())
    together = files - {TOKENIZER}
    whole = (folder / TOKENIZER).is_file() or any(folder.glob("*.model"))
    if files and not whole and not (together and all((folder / name).is_file() for name in together)):
        also = f", or {' and '.join(sorted(together))}" if together else ""
        raise ValueError(f"has no vocabulary: must have {TOKENIZER}{also}")


def load_part(cls: Any, folder: Path, **options: Any) -> Any:
    """A model of diffusers or transformers from its folder: of its class, on the CPU, with the options of loading.

    Raises ValueError, of one line, if it is damaged or of another class, would run code, or if tensors are missing,
    unexpected, of another shape or not finite. The libraries themselves fill in random numbers, and go on.
    """
    check_files(folder)
    try:
        model, loading = cls.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except Exception as error:  # what a damaged file can mean to either library has no end, and no common class
        raise ValueError(f"no {cls.__name__}, or damaged ({reason(error)})") from error
    named = {"missing": "missing_keys", "unexpected": "unexpected_keys", "of another shape": "mismatched_keys"}
    misfits = {kind: sorted(map(_name, loading.get(key) or ())) for kind, key in named.items()}
    if any(misfits.values()):
        wrong = "; ".join(f"{listed(names)} {kind}" for kind, names in misfits.items() if names)
        raise ValueError(f"its weights are not those of its {CONFIG}: {wrong}")
    require_finite(model.state_dict().items())
    assert isinstance(model, nn.Module)
    return model


def _name(entry: Any) -> str:
    """Of a tensor; the libraries give those of another shape as (name, shape, shape)."""
    return entry if isinstance(entry, str) else str(entry[0])
