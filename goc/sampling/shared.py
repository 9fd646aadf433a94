"""What several runs share, kept on disk by all that it depends on."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from goc.system.files import content_key, room_for, write_atomically
from goc.system.locks import Lock
from goc.system.stopping import keeping

log = logging.getLogger(__name__)


def shared_path(cache_dir: Path, kind: str, key: dict[str, Any]) -> Path:
    """Where something that several runs share is kept: named by all that it depends on."""
    with room_for(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
    return cache_dir / f"{kind}-{content_key(key)}"


def shared_tensors(
    cache_dir: Path, kind: str, key: dict[str, Any], names: set[str], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The named tensors that make() gives; from disk if any run made them before.

    Of several processes one makes them, and the others wait. A damaged file is made again, with a warning. Raises
    GocError if there is no room for it.
    """
    path = shared_path(cache_dir, kind, key).with_suffix(".safetensors")
    if (kept := _kept(path, names)) is not None:  # by all who may read it
        return kept
    with Lock(path.with_suffix(".lock")):
        if (kept := _kept(path, names)) is not None:
            return kept
        if path.exists():
            log.warning("%s is damaged: it is made again", path)
        with keeping(f"{path.name} is begun anew by the same command; what was finished before it is kept"):
            made = make()
            with room_for(path, "what was finished before it is kept"):
                write_atomically(path, save(made, metadata={"key": json.dumps(key)}))
        return made


def _kept(path: Path, names: set[str]) -> dict[str, Tensor] | None:
    """The named tensors in a file; None if it is not there, or damaged."""
    try:
        tensors = load_file(path)
        return {name: tensors[name] for name in names}
    except (SafetensorError, OSError, KeyError):
        return None
