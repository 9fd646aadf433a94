"""Real images to extract features from: those in a folder, or the array in an .npz file."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from goc.metrics.image_folder import REFERENCE, ImageFolder, by_number, find_images, shown
from goc.metrics.pixels import (
    DAMAGE,
    RefusedError,
    check_layout,
    named,
    opened,
    other_colours,
    pixels,
    read_otherwise_before,
)
from goc.system.errors import GocError

EXTRACTION_BATCH = 64
PIXEL_RULE = "16 bits by the higher byte, no alpha"  # how files became pixels; kept features of another are not used


@dataclass(frozen=True)
class RealImages:
    """Images to extract features from: `count` of `size` x `size` pixels, as uint8 batches [n, C, size, size].

    notes: what was noticed about them, each to be said in one line. rule: by which they became pixels, if there is
    more than one that they could have become pixels by.
    """

    path: Path
    sha256: str
    count: int
    size: int
    batches: Callable[[], Iterator[Tensor]]
    notes: tuple[str, ...] = ()
    rule: str | None = None


def folder_images(
    folder: Path, channels: int, size: int | None, what: str = REFERENCE, numbered: bool = False
) -> RealImages:
    """The images in a folder and its subfolders, sorted by name; all size x size (None: the first's).

    what: for messages, the setting that names the folder. numbered: whether 2.png comes before 10.png.
    Raises GocError naming the first file that is of another size, cannot be read, or has pixels that would be a guess.
    """
    found = find_images(folder, what)
    if len(found.files) < 2:
        unused = f" (not used: {found.unused()})" if found.unused() else ""
        raise GocError(f"{what}={folder}: {len(found.files)} images there, at least 2 are needed{unused}")

    otherwise = False

    coloured = 0
    for path in found.files:
        with named(f"{what}={folder}: {shown(path)}"), opened(path.read_bytes()) as image:
            check_layout(image)
            otherwise |= read_otherwise_before(image)
            size = size or image.width
            if image.size != (size, size):
                raise RefusedError(f"is {image.width}x{image.height} pixels, not {size}x{size}")
            coloured += other_colours(image)

    def read(path: Path, digest: str) -> Tensor:
        with named(f"{what}={folder}: {shown(path)}"):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise RefusedError("was changed while the images were read")
            with opened(content) as image:
                return torch.from_numpy(pixels(image, channels)).permute(2, 0, 1)

    def batches() -> Iterator[Tensor]:
        known = list(zip(found.files, found.digests, strict=True))
        if numbered:
            known.sort(key=lambda pair: by_number(pair[0]))
        for start in range(0, len(known), EXTRACTION_BATCH):
            yield torch.stack([read(path, digest) for path, digest in known[start : start + EXTRACTION_BATCH]])

    assert size is not None
    notes = _notes(found, coloured)
    return RealImages(folder, _identity(found, otherwise), len(found.files), size, batches, notes, PIXEL_RULE)


def folder_sha256(folder: Path) -> str:
    """SHA-256 of a folder of images: of their sorted names and contents, and of how they are read if that changed.

    It is what `goc.metrics.reference.Reference.sha256` is of a folder. Images are opened and not decoded; raises
    GocError as `find_images` does.
    """
    found = find_images(folder)
    return _identity(found, any(map(_read_otherwise_before, found.files)))


def _read_otherwise_before(path: Path) -> bool:
    try:
        with path.open("rb") as file, opened(file) as image:
            return read_otherwise_before(image)
    except DAMAGE:
        return False  # it is refused where its pixels are wanted


def _identity(found: ImageFolder, otherwise: bool) -> str:
    """otherwise: whether older versions, whose results know the folder by its files alone, read other pixels there."""
    return hashlib.sha256(f"{found.sha256}\n{PIXEL_RULE}".encode()).hexdigest() if otherwise else found.sha256


def _notes(found: ImageFolder, coloured: int) -> tuple[str, ...]:
    notes = []
    if unused := found.unused():
        notes.append(f"not used: {unused}")
    if found.copies:
        notes.append(f"{found.copies} of its images are copies of others, and count as often as they are there")
    if coloured:
        notes.append(f"{coloured} of its images have a colour profile or gamma other than sRGB, which is not applied")
    return tuple(notes)
