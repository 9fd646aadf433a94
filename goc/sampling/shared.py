"""What several runs share, kept on disk by all that it depends on."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from goc.system.files import content_key, write_atomically

log = logging.getLogger(__name__)


def shared_path(cache_dir: Path, kind: str, key: dict[str, Any]) -> Path:
    """Where something that several runs share is kept: named by all that it depends on."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    return cache_dir / f"{kind}-{content_key(key)}"


def shared_tensors(
    cache_dir: Path, kind: str, key: dict[str, Any], names: set[str], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The named tensors that make() gives; from disk if any run made them before.

    Of several processes one makes them, and the others wait. A damaged file is made again, with a warning.
    """
    path = shared_path(cache_dir, kind, key).with_suffix(".safetensors")
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                tensors = load_file(path)
                return {name: tensors[name] for name in names}
            except (SafetensorError, OSError, KeyError) as error:
                log.warning("%s is damaged (%s): it is made again", path, error)
        made = make()
        write_atomically(path, save(made, metadata={"key": json.dumps(key)}))
        return made
