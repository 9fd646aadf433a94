"""Which files of a folder are its images, and what the folder is known by."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from goc.system.errors import GocError
from goc.system.files import file_sha256, irregular

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
SHOWN = 3  # names of files that are not used


def shown(path: Path) -> str:
    """A file's name as it can stand in one line of text."""
    return path.name if path.name.isprintable() else ascii(path.name)


@dataclass(frozen=True)
class ImageFolder:
    """A folder's images, sorted by name, their SHA-256 in the same order, and what in it is not used.

    others: neither images by their suffix nor hidden; hidden: how many files' names, or their folders', begin with a
    dot (a hidden folder counts once).
    """

    folder: Path
    files: tuple[Path, ...]
    digests: tuple[str, ...]
    others: tuple[Path, ...]
    hidden: int

    @property
    def sha256(self) -> str:
        """Of the images' sorted names and contents."""
        names = hashlib.sha256()
        for path, digest in zip(self.files, self.digests, strict=True):
            names.update(os.fsencode(path.relative_to(self.folder).as_posix()) + f"\0{digest}\n".encode())
        return names.hexdigest()

    @property
    def copies(self) -> int:
        """How many images are a copy of another one."""
        return len(self.digests) - len(set(self.digests))

    def unused(self) -> str:
        """What is not used, in words; empty: everything is."""
        parts = []
        if self.others:
            names = ", ".join(shown(path) for path in self.others[:SHOWN])
            more = ", ..." if len(self.others) > SHOWN else ""
            parts.append(f"{len(self.others)} that are no images by their suffix ({names}{more})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        return " and ".join(parts)


def by_number(path: Path) -> list[str | int]:
    """A key that sorts 2.png before 10.png."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix())]


def find_images(folder: Path, what: str = REFERENCE) -> ImageFolder:
    """The images in a folder and its subfolders (links to folders are not followed), and their hashes.

    what: for messages, the setting that names the folder.

    Raises GocError naming the first that is a broken link, a device or a pipe, or cannot be read.
    """
    files: list[Path] = []
    others: list[Path] = []
    hidden = 0
    try:
        for entry in _entries(folder):
            if entry.name.startswith("."):
                hidden += 1
            elif entry.suffix.lower() in SUFFIXES and not (entry.is_symlink() and entry.is_dir()):
                files.append(entry)
            else:
                others.append(entry)
        files.sort()
        digests = tuple(_digest(f"{what}={folder}", path) for path in files)
    except OSError as error:
        raise GocError(f"{what}={folder}: {error.filename} cannot be read ({error.strerror})") from error
    return ImageFolder(folder, tuple(files), digests, tuple(sorted(others)), hidden)


def _entries(folder: Path) -> Iterator[Path]:
    """All that is in a folder and its subfolders, but for subfolders themselves; hidden ones are not looked into."""
    with os.scandir(folder) as entries:
        found = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for path, is_folder in found:
        if is_folder and not path.name.startswith("."):
            yield from _entries(path)
        else:
            yield path


def _digest(where: str, path: Path) -> str:
    name = shown(path)
    try:
        found = irregular(path)
    except OSError as error:
        link = "a link that leads nowhere" if stat.S_ISLNK(path.lstat().st_mode) else "not to be read"
        raise GocError(f"{where}: {name} is {link} ({error.strerror})") from error
    if found:
        raise GocError(f"{where}: {name} is {found}, and must be a regular file")
    return file_sha256(path)
