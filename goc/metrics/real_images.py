"""Real images to extract features from: those in a folder, or the array in an .npz file."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL.ImageFile import ImageFile
from torch import Tensor
from tqdm import tqdm

from goc.metrics.crop import check_croppable, cropped_pixels, remarks
from goc.metrics.image_folder import REFERENCE, SHOWN_AFTER_S, ImageFolder, by_number, find_images, shown
from goc.metrics.pixels import (
    DAMAGE,
    PILLOWS_WARNINGS,
    RefusedError,
    check_layout,
    named,
    opened,
    other_colours,
    pixels,
    read_otherwise_before,
)
from goc.system.errors import GocError
from goc.system.threads import in_order

EXTRACTION_BATCH = 64
PIXEL_RULE = "16 bits by the higher byte, no alpha"  # how files became pixels; kept features of another are not used
OTHER_COLOURS = "have a colour profile or gamma other than sRGB, which is not applied"


@dataclass(frozen=True)
class RealImages:
    """Images to extract features from: `count` of `size` x `size` pixels, as uint8 batches [n, C, size, size].

    batches_from: of their number. sha256: of all images, and how they became pixels; sha256_of_first: of so many of
    them. notes: what was noticed about them, each to be said in one line. rule: by which they became pixels, if there
    is more than one that they could have become pixels by.
    """

    path: Path
    sha256: str
    count: int
    size: int
    batches_from: Callable[[int], Iterator[Tensor]]
    sha256_of_first: Callable[[int], str]
    notes: tuple[str, ...] = ()
    rule: str | None = None

    def batches(self) -> Iterator[Tensor]:
        """All of them."""
        return self.batches_from(0)


@dataclass(frozen=True)
class Look:
    """What an image file says of itself before it is decoded. remarks: each goes on after a number of images."""

    size: tuple[int, int]
    otherwise: bool
    remarks: tuple[str, ...]


def folder_images(
    folder: Path,
    channels: int,
    size: int | None,
    what: str = REFERENCE,
    numbered: bool = False,
    crop: str | None = None,
    workers: int = 1,
) -> RealImages:
    """The images in a folder and its subfolders, sorted by name; all size x size (None: the first's).

    what: for messages, the setting that names the folder. numbered: whether 2.png comes before 10.png. crop: how images
    of any size become that size, of `goc.metrics.crop.CROPS`. workers: threads that read; they change nothing else.
    Raises GocError naming the first file that is of another size, cannot be read, or has pixels that would be a guess.
    """
    files = find_images(folder, what, workers)
    if len(files.names) < 2:
        unused = f" (not used: {files.unused()})" if files.unused() else ""
        raise GocError(f"{what}={folder}: {len(files.names)} images there, at least 2 are needed{unused}")

    def look(name: str) -> Look:
        with named(f"{what}={folder}: {shown(name)}"), (folder / name).open("rb") as file, opened(file) as image:
            if crop is None:
                check_layout(image)
                return Look(image.size, read_otherwise_before(image), _colours(image))
            check_croppable(image)
            return Look(image.size, False, (*remarks(image), *_colours(image)))

    otherwise, remarked = False, Counter[str]()
    with PILLOWS_WARNINGS:
        looks = in_order(look, files.names, workers)
        shown_looks = tqdm(looks, f"opening {shown(folder.name)}", len(files.names), unit="img", delay=SHOWN_AFTER_S)
        for name, seen in zip(files.names, shown_looks, strict=True):
            size = size or seen.size[0]
            if crop is None and seen.size != (size, size):
                offer = f"; `goc reference --crop adm --size {size}` takes images of any size"
                sizes = f"is {seen.size[0]}x{seen.size[1]} pixels, not {size}x{size}"
                raise GocError(f"{what}={folder}: {shown(name)} {sizes}{offer if what == REFERENCE else ''}")
            otherwise |= seen.otherwise
            remarked.update(seen.remarks)
    assert size is not None
    side = size

    def read(image: tuple[str, bytes]) -> np.ndarray:
        name, digest = image
        with named(f"{what}={folder}: {shown(name)}"):
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).digest() != digest:
                raise RefusedError("was changed while the images were read")
            with opened(content) as opened_image:
                return pixels(opened_image, channels) if crop is None else cropped_pixels(opened_image, channels, side)

    def batches_from(first: int) -> Iterator[Tensor]:
        known = zip(files.names, files.digests, strict=True)
        ordered = sorted(known, key=lambda pair: by_number(pair[0])) if numbered else known
        images = in_order(read, islice(ordered, first * EXTRACTION_BATCH, None), workers)
        with PILLOWS_WARNINGS:
            while batch := list(islice(images, EXTRACTION_BATCH)):
                yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous()

    rule = PIXEL_RULE if crop is None else f"{crop} {size}"
    sha256 = _identity(files, rule if crop or otherwise else None)
    notes = _notes(files, remarked)
    return RealImages(folder, sha256, len(files.names), side, batches_from, files.sha256_of_first, notes, rule)


def folder_sha256(folder: Path) -> str:
    """SHA-256 of a folder of images: of their sorted names and contents, and of how they are read if that changed.

    It is what `goc.metrics.reference.Reference.sha256` is of a folder. Images are opened and not decoded; raises
    GocError as `find_images` does.
    """
    files = find_images(folder)
    otherwise = any(_read_otherwise_before(folder / name) for name in files.names)
    return _identity(files, PIXEL_RULE if otherwise else None)


def _read_otherwise_before(path: Path) -> bool:
    try:
        with path.open("rb") as file, opened(file) as image:
            return read_otherwise_before(image)
    except DAMAGE:
        return False  # it is refused where its pixels are wanted


def _identity(files: ImageFolder, rule: str | None) -> str:
    """rule: by which its files become pixels; None: older versions, whose results know the folder by its files alone,
    read the same ones."""
    return files.sha256 if rule is None else hashlib.sha256(f"{files.sha256}\n{rule}".encode()).hexdigest()


def _colours(image: ImageFile) -> tuple[str, ...]:
    return (OTHER_COLOURS,) if other_colours(image) else ()


def _notes(files: ImageFolder, remarked: Counter[str]) -> tuple[str, ...]:
    notes = []
    if unused := files.unused():
        notes.append(f"not used: {unused}")
    if files.copies:
        notes.append(f"{files.copies} of its images are copies of others, and count as often as they are there")
    return (*notes, *(f"{count} of its images {remark}" for remark, count in remarked.items()))
