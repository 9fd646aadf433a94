"""What several runs share, kept on disk by all that it depends on."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from goc.system.checksum import checksum
from goc.system.errors import ConfigError, GocError
from goc.system.files import content_key, room_for, write_atomically
from goc.system.locks import Lock
from goc.system.stopping import keeping

ABOUT, KEY = "about", "key"  # entry of a header with the key and a checksum; in older ones the key is its only entry

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
    if path.exists():  # for all who may read it
        with contextlib.suppress(ValueError):
            return _kept(path, names, key)
    with Lock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return _kept(path, names, key)
            except ValueError as error:
                log.warning("%s is %s: it is made again", path, error)
        with keeping(f"{path.name} is begun anew by the same command; what was finished before it is kept"):
            made = make()
            with room_for(path, "what was finished before it is kept"):
                about = {KEY: key, "sha256": checksum(made)}
                # one entry, because safetensors writes several in any order
                write_atomically(path, save(made, metadata={ABOUT: json.dumps(about)}))
        return made


def is_key(found: Any, key: dict[str, Any]) -> bool:
    """Whether a key that was read from JSON is this one."""
    return bool(found == json.loads(json.dumps(key)))


def _kept(path: Path, names: set[str], key: dict[str, Any]) -> dict[str, Tensor]:
    """The named tensors in a file; raises ValueError, of a few words, if it is damaged or of another key."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        about = json.loads(header[ABOUT]) if ABOUT in header else {KEY: json.loads(header[KEY])}
        own, expected = about[KEY], about.get("sha256")
        wanted = {name: tensors[name] for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError("damaged") from error
    if not is_key(own, key):
        raise ValueError("of something else than its name says")
    if expected not in (None, checksum(tensors)):
        raise ValueError("damaged")
    return wanted
