"""Files that are either whole or absent, content hashes, and paths into the shipped assets."""

import contextlib
import functools
import hashlib
import importlib.resources
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from goc.system.errors import GocError

PACKAGE = Path(str(importlib.resources.files("goc")))  # in a checkout or in site-packages
CONF = PACKAGE / "conf"  # a link to the checkout's conf/, a copy in an installed package
ASSETS = PACKAGE / "assets"
ASSET_PREFIX = "asset:"


def python_path() -> str:
    """PYTHONPATH of a process that is to import this package, installed or not."""
    return os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))


def resolve(path: str) -> Path:
    """A path of the configuration; "asset:digits/x" names a file shipped with the project."""
    if path.startswith(ASSET_PREFIX):
        return ASSETS / path.removeprefix(ASSET_PREFIX)
    return Path(path)


def cache_folder() -> Path | None:
    """The user's folder for what can be made again (XDG_CACHE_HOME); None: a user without a home, as in containers."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # others are to be ignored, says the XDG base directory specification
        return named
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write that takes the place of `path` at the end.

    After an error, a kill or a power cut the path is as it was before. Who may read it is for the umask to say, as with
    any new file. An OSError names the path, whatever went wrong with it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """While a file is written: an OSError names it, as those of a full disk by themselves do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def room_for(path: Path, kept: str = "the finished shards are kept") -> Iterator[None]:
    """While a file or folder is written: what goes wrong with it is a GocError that names it, and says how to go on.

    kept: what is not lost.
    """
    try:
        yield
    except OSError as error:
        raise GocError(
            f"{path}: could not be written ({error.strerror or error}); {kept}: "
            "make room, and start the same command again"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that after a kill or power cut it holds all of the content, or is as it was before."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8 in every locale, atomically; what is no character, as in names of files, is escaped."""
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; non-finite numbers become null, as JSON has none."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises OSError, or ValueError for what is none: too deep, or with a key twice."""
    try:
        return json.loads(read_text(path), object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may stand twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(list(content)[:5])}")
    return content


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def json_sha256(value: Any) -> str:
    """SHA-256 of a JSON-able value, whatever order its keys are in."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def content_key(value: Any) -> str:
    """A short name for a JSON-able value: the first 16 hex digits of its SHA-256."""
    return json_sha256(value)[:16]


KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def irregular(path: Path) -> str | None:
    """What a path leads to if it is no regular file ("a folder", "a pipe", ...); None: it is one.

    Links are followed; raises OSError if they lead nowhere.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return None
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), "something else")


def require_regular_file(path: Path, setting: str | None = None) -> None:
    """Raise GocError, naming the setting if there is one, for a path that is no regular file.

    To read a device or a pipe may never end, so this comes before the first byte. Raises OSError for a missing file.
    """
    if kind := irregular(path):
        named = path if setting is None else f"{setting}={path}"
        raise GocError(f"{named}: must be a regular file, not {kind}")


def require_file(path: Path, setting: str, advice: str = "") -> Path:
    """The path of a regular file; raises GocError, naming the setting, if there is none, and then with some advice."""
    if not path.exists():
        raise GocError(f"{setting}={path}: no such file (looked for {path.absolute()}){advice}")
    require_regular_file(path, setting)
    return path


def read_text(path: Path) -> str:
    """The text of a regular UTF-8 file; raises OSError, also for a device or a pipe, or UnicodeDecodeError."""
    if kind := irregular(path):
        raise OSError(f"must be a regular file, not {kind}")
    return path.read_text(encoding="utf-8")


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's content, hexadecimal; a process reads a file again only if it changed.

    Raises GocError for a folder, a device or a pipe.
    """
    require_regular_file(path)
    status = path.stat()
    # a copy may keep a file's size and its time of change, but not the time at which that was set
    return _sha256(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over files below a folder and their names there."""
    return json_sha256({path.relative_to(folder).as_posix(): file_sha256(path) for path in paths})
