"""Real images to extract features from: a folder of files, or the images in ADM's .npz."""

import hashlib
import textwrap
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from goc.system.errors import GocError
from goc.system.files import file_sha256

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
ARCHIVE_ERRORS = (
    OSError, EOFError, ValueError, LookupError, RuntimeError, MemoryError, SyntaxError, tokenize.TokenError,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip
EXTRACTION_BATCH = 64


@dataclass(frozen=True)
class RealImages:
    """Images to extract features from: `count` of `size` x `size` pixels, as uint8 batches [n, C, size, size]."""

    path: Path
    sha256: str
    count: int
    size: int
    batches: Callable[[], Iterator[Tensor]]


def folder_images(folder: Path, channels: int, size: int | None) -> RealImages:
    """The .png and .jpg images in a folder and its subfolders, sorted by name; all size x size (None: the first's).

    Raises GocError naming the first file that is of another size or cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 2:
        raise GocError(f"model.reference={folder}: {len(files)} .png or .jpg images there, at least 2 are needed")
    names = hashlib.sha256()
    for path in files:
        try:
            names.update(
                f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode(errors="surrogateescape")
            )
            with Image.open(path) as image:
                width, height = image.size
        except IMAGE_ERRORS as error:
            raise GocError(f"model.reference={folder}: {path.name} is damaged or no image ({error})") from error
        size = size or width
        if (width, height) != (size, size):
            raise GocError(f"model.reference={folder}: {path.name} is {width}x{height} pixels, not {size}x{size}")

    def read(path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
        except IMAGE_ERRORS as error:
            raise GocError(f"model.reference={folder}: {path.name} is damaged or no image ({error})") from error
        return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(files), EXTRACTION_BATCH):
            yield torch.stack([read(path) for path in files[start : start + EXTRACTION_BATCH]])

    assert size is not None
    return RealImages(folder, names.hexdigest(), len(files), size, batches)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz file, opened; whatever goes wrong while it is read is a GocError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except ARCHIVE_ERRORS as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise GocError(f"model.reference={path}: damaged, or not an .npz file of plain numbers ({reason})") from error


def archived_images(path: Path, sha256: str, archive: zipfile.ZipFile) -> RealImages:
    """The images arr_0 of an open .npz file, uint8 [M, H, W, C]; raises ValueError if they are of another kind."""
    with archive.open("arr_0.npy") as member:
        count, size, width, _ = _images_shape(member)
    if size != width:
        raise ValueError(f"its images arr_0 are not square: {width}x{size}")
    return RealImages(path, sha256, count, size, lambda: _npz_batches(path))


def _images_shape(member: IO[bytes]) -> tuple[int, int, int, int]:
    """Shape [M, H, W, C] of the images in an .npy stream, which is then at the first of them."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("its images arr_0 are of an unknown .npy version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype != np.uint8 or len(shape) != 4 or by_columns or shape[0] < 2:
        raise ValueError(f"its images arr_0 must be uint8 [M, H, W, C] with M > 1, not {dtype} {list(shape)}")
    return shape


def _npz_batches(path: Path) -> Iterator[Tensor]:
    """arr_0 in batches [n, C, H, W], read as a stream: ADM's is 2 GB."""
    with open_archive(path) as archive, archive.open("arr_0.npy") as member:
        count, height, width, channels = _images_shape(member)
        for start in range(0, count, EXTRACTION_BATCH):
            n = min(EXTRACTION_BATCH, count - start)
            content = member.read(n * height * width * channels)
            pixels = np.frombuffer(bytearray(content), np.uint8).reshape(n, height, width, channels)
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
