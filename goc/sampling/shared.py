"""What several runs share, kept on disk by all that it depends on."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from goc.system.errors import ConfigError, GocError
from goc.system.files import content_key, room_for, write_atomically
from goc.system.locks import Lock
from goc.system.sealed import UnusableError, sealed, unsealed
from goc.system.stopping import keeping

log = logging.getLogger(__name__)


def shared_path(cache_dir: Path, kind: str, key: dict[str, Any]) -> Path:
    """Where something that several runs share is kept: named by all that it depends on."""
    try:
        with room_for(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
    except GocError as error:
        if isinstance(error.__cause__, FileExistsError | NotADirectoryError):
            raise ConfigError(f"cache_dir={cache_dir}: must be a folder, and there is a file in its way") from None
        raise
    return cache_dir / f"{kind}-{content_key(key)}"


def shared_tensors(
    cache_dir: Path, kind: str, key: dict[str, Any], names: set[str], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The named tensors that make() gives; from disk if any run made them before.

    Of several processes one makes them, and the others wait. A file that is damaged, or of another key, is made again,
    with a warning. Raises GocError if there is no room for it.
    """
    path = shared_path(cache_dir, kind, key).with_suffix(".safetensors")
    with contextlib.suppress(FileNotFoundError, UnusableError):  # by all who may read it
        return _kept(path, key, names)
    with Lock(path.with_suffix(".lock")):
        try:
            return _kept(path, key, names)
        except FileNotFoundError:
            pass
        except UnusableError as error:
            log.warning("%s %s: it is made again", path, error)
        with keeping(f"{path.name} is begun anew by the same command; what was finished before it is kept"):
            made = make()
            with room_for(path, "what was finished before it is kept"):
                write_atomically(path, sealed(made, key))
        return made


def _kept(path: Path, key: dict[str, Any], names: set[str]) -> dict[str, Tensor]:
    """The named tensors in a file of a key; raises FileNotFoundError, or UnusableError."""
    tensors = unsealed(path, key)
    if missing := sorted(names - tensors.keys()):
        raise UnusableError(f"is damaged (without {', '.join(missing)})")
    return {name: tensors[name] for name in names}
