"""Files that are either whole or absent, content hashes, and paths into the shipped assets."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from goc.system.errors import GocError

ASSETS = Path(__file__).parent.parent / "assets"
ASSET_PREFIX = "asset:"


def resolve(path: str) -> Path:
    """A path of the configuration; "asset:digits/x" names a file shipped with the project."""
    if path.startswith(ASSET_PREFIX):
        return ASSETS / path.removeprefix(ASSET_PREFIX)
    return Path(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write that takes the place of `path` at the end.

    After an error, a kill or a power cut the path is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """While a file or folder is written: what goes wrong with it is a GocError that names it, and says how to go on."""
    try:
        yield
    except OSError as error:
        raise GocError(
            f"{path}: could not be written ({error.strerror or error}); the finished shards are kept: "
            "make room, and start the same command again"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that after a kill or power cut it holds all of the content, or is as it was before."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; non-finite numbers become null, as JSON has none."""
    write_atomically(path, (json.dumps(_finite(value), indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises OSError, or ValueError for what is none: too deep, or with a key twice."""
    if path.exists() and not path.is_file():
        raise ValueError("not a file")  # a device may have no end
    try:
        return json.loads(path.read_text(), object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may stand twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(list(found)[:5])}")
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def content_key(value: Any) -> str:
    """A short name for a JSON-able value: the first 16 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
