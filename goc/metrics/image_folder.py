"""Which files of a folder are its images, and what the folder is known by."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from goc.system.errors import GocError
from goc.system.files import file_sha256, irregular
from goc.system.threads import in_order

# formats of still pictures, by the names of Pillow, and the suffixes of their files; none of them starts a program
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif",),
    "TGA": (".tga",),
    "QOI": (".qoi",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
REFERENCE = "model.reference"  # the setting that names real images
CROPS = ("adm",)  # how images of any size become squares of one (goc.metrics.crop)
SHOWN = 3  # names of files that are not used
SHOWN_AFTER_S = 3  # seconds until the progress of what is mostly quick is shown


def shown(name: str) -> str:
    """A file's name as it can stand in one line of text."""
    return name if name.isprintable() else ascii(name)


@dataclass(frozen=True)
class ImageFolder:
    """A folder's images, sorted by name, their SHA-256 in the same order, and what in it is not used.

    names: below the folder, with a slash behind each subfolder; digests: as bytes, as there may be a million. others:
    neither images by their suffix nor hidden; hidden: how many files' names, or their folders', begin with a dot (a
    hidden folder counts once).
    """

    folder: Path
    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    others: tuple[str, ...]
    hidden: int

    @property
    def sha256(self) -> str:
        """Of the images' sorted names and contents."""
        return self.sha256_of_first(len(self.names))

    def sha256_of_first(self, count: int) -> str:
        """Of the sorted names and contents of the first images."""
        lines = hashlib.sha256()
        for name, digest in islice(zip(self.names, self.digests, strict=True), count):
            lines.update(os.fsencode(name) + f"\0{digest.hex()}\n".encode())
        return lines.hexdigest()

    @property
    def copies(self) -> int:
        """How many images are a copy of another one."""
        return len(self.digests) - len(set(self.digests))

    def unused(self) -> str:
        """What is not used, in words; empty: everything is."""
        parts = []
        if self.others:
            names = ", ".join(shown(os.path.basename(name)) for name in self.others[:SHOWN])
            more = ", ..." if len(self.others) > SHOWN else ""
            parts.append(f"{len(self.others)} that are no images by their suffix ({names}{more})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        return " and ".join(parts)


def by_number(name: str) -> list[str | int]:
    """A key that sorts 2.png before 10.png."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def by_folder(name: str) -> str:
    """A key that sorts names as paths: a/b.png before a.png, as a comes before a.png."""
    return name.replace("/", "\0")


def find_images(folder: Path, what: str = REFERENCE, workers: int = 1) -> ImageFolder:
    """The images in a folder and its subfolders (links to folders are not followed), and their hashes.

    what: for messages, the setting that names the folder. workers: threads that read files.

    Raises GocError naming the first that is a broken link, a device or a pipe, or cannot be read.
    """
    names: list[str] = []
    others: list[str] = []
    hidden = 0
    try:
        for entry in _entries(folder):
            if entry.name.startswith("."):
                hidden += 1
            elif entry.suffix.lower() in SUFFIXES and not (entry.is_symlink() and entry.is_dir()):
                names.append(entry.relative_to(folder).as_posix())
            else:
                others.append(entry.relative_to(folder).as_posix())
        names.sort(key=by_folder)
        read = in_order(lambda name: _digest(f"{what}={folder}", folder / name), names, workers)
        digests = tuple(tqdm(read, f"hashing {shown(folder.name)}", len(names), unit="img", delay=SHOWN_AFTER_S))
    except OSError as error:
        raise GocError(f"{what}={folder}: {error.filename} cannot be read ({error.strerror})") from error
    return ImageFolder(folder, tuple(names), digests, tuple(sorted(others, key=by_folder)), hidden)


def _entries(folder: Path) -> Iterator[Path]:
    """All that is in a folder and its subfolders, but for subfolders themselves; hidden ones are not looked into."""
    with os.scandir(folder) as entries:
        paths = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for path, is_folder in paths:
        if is_folder and not path.name.startswith("."):
            yield from _entries(path)
        else:
            yield path


def _digest(where: str, path: Path) -> bytes:
    name = shown(path.name)
    try:
        kind = irregular(path)
    except OSError as error:
        link = "a link that leads nowhere" if stat.S_ISLNK(path.lstat().st_mode) else "not to be read"
        raise GocError(f"{where}: {name} is {link} ({error.strerror})") from error
    if kind:
        raise GocError(f"{where}: {name} is {kind}, and must be a regular file")
    return bytes.fromhex(file_sha256(path))
