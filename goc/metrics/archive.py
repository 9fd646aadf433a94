"""The arrays of an .npz file: images, as a stream, and statistics; none of its content is ever run."""

import math
import os
import textwrap
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from goc.metrics.image_folder import REFERENCE
from goc.metrics.real_images import EXTRACTION_BATCH, RealImages
from goc.system.errors import GocError
from goc.system.files import require_regular_file

DAMAGE = (
    OSError, EOFError, ValueError, LookupError, RuntimeError, MemoryError, OverflowError, SyntaxError,
    tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
IMAGES = "arr_0"
WANTED = "uint8 [M, H, W, C] or [M, C, H, W], 0 to 255, with M > 1, H = W, and C = 1 or 3"
CHANNELS = (1, 3)
MINIMUM_BYTES = 4  # of one of a statistic's numbers
SHOWN = 4  # arrays that a message lists


@dataclass(frozen=True)
class Header:
    """What an .npy stream says of its array."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """How many the array's numbers are."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@contextmanager
def open_archive(path: Path, what: str = REFERENCE) -> Iterator[zipfile.ZipFile]:
    """An .npz file, opened; whatever goes wrong while it is read is a GocError. what: the setting that names it."""
    require_regular_file(path, what)
    try:
        with zipfile.ZipFile(path) as archive:
            if len(names := archive.namelist()) != len(set(names)):
                raise ValueError("it has two arrays of one name")
            yield archive
    except DAMAGE as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise GocError(f"{what}={path}: damaged, or not an .npz file of plain numbers ({reason})") from error


@contextmanager
def open_array(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[Header, IO[bytes]]]:
    """One array's header, and the stream behind it, which holds exactly its numbers; raises ValueError if not."""
    file = f"{name}.npy"
    with archive.open(file) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            header = Header(*np.lib.format.read_array_header_1_0(member))
        elif version in ((2, 0), (3, 0)):  # 3.0 differs in how fields' names are written, and plain numbers have none
            header = Header(*np.lib.format.read_array_header_2_0(member))
        else:
            raise ValueError(f"{name} is of an unknown .npy version, {version[0]}.{version[1]}")
        if header.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        if any(type(n) is not int or n < 0 for n in header.shape):
            raise ValueError(f"the shape of {name} is {list(header.shape)}")
        here = archive.getinfo(file).file_size - member.tell()
        if here != header.bytes:
            raise ValueError(f"{name} has {here} bytes, {header} is {header.bytes}")
        yield header, member


def listed(archive: zipfile.ZipFile) -> str:
    """The arrays of an archive in words, with their types and shapes."""
    words = []
    for file in archive.namelist()[:SHOWN]:
        name = ascii(file.removesuffix(".npy"))[1:-1]
        try:
            with open_array(archive, file.removesuffix(".npy")) as (header, _):
                words.append(f"{name} {header}")
        except DAMAGE:
            words.append(name)
    more = ", ..." if len(archive.namelist()) > SHOWN else ""
    return (", ".join(words) or "nothing") + more


def read_statistic(
    archive: zipfile.ZipFile, name: str, what: str, check: Callable[[tuple[int, ...]], None]
) -> np.ndarray:
    """A statistic as float64, after `check` of its shape; raises GocError, saying what it is, for another type."""
    with open_array(archive, name) as (header, member):
        check(header.shape)
        if header.dtype.kind not in "fiu" or header.dtype.itemsize < MINIMUM_BYTES:
            raise GocError(f"{what} is of the type {header.dtype}, must be float32 or float64")
        return _array(member, header).astype(np.float64, order="C")


def archived_images(path: Path, sha256: str, archive: zipfile.ZipFile, what: str = REFERENCE) -> RealImages:
    """The images arr_0 of an open .npz file; raises GocError, saying what is wanted, if they are of another kind."""
    if f"{IMAGES}.npy" not in archive.namelist():
        raise GocError(f"{what}={path}: holds no images ({IMAGES}), but {listed(archive)}")
    with open_array(archive, IMAGES) as (header, _):
        layout = _layout(f"{what}={path}", header)
    notes = () if layout.channels_last else ("its images are read as [M, C, H, W]",)
    return RealImages(path, sha256, layout.count, layout.size, partial(_batches, path, what), lambda _: sha256, notes)


@dataclass(frozen=True)
class Layout:
    """How images stand in an array: M = count, C = channels, H = W = size."""

    count: int
    channels: int
    size: int
    channels_last: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image in the array."""
        sides = (self.size, self.size)
        return (*sides, self.channels) if self.channels_last else (self.channels, *sides)


def _layout(where: str, header: Header) -> Layout:
    """Which axis is which: images are square and have 1 or 3 channels, which leaves one reading, or none."""
    what, shape = f"{where}: its images {IMAGES} are {header}", header.shape
    if header.dtype != np.uint8 or len(shape) != 4 or shape[0] < 2 or 0 in shape:
        raise GocError(f"{what}, must be {WANTED}")
    last = shape[1] == shape[2] and shape[3] in CHANNELS
    first = shape[2] == shape[3] and shape[1] in CHANNELS
    if last and first and shape[1:] != (1, 1, 1):
        raise GocError(f"{what}: it is not clear whether channels come first or last")
    if not last and not first:
        raise GocError(f"{what}, must be {WANTED}")
    return Layout(shape[0], shape[3] if last else shape[1], shape[2], last)


def _batches(path: Path, what: str, first: int) -> Iterator[Tensor]:
    """Images in batches [n, C, H, W], from one on, as a stream: ADM's are 2 GB. By columns, all are read at once."""
    with open_archive(path, what) as archive, open_array(archive, IMAGES) as (header, member):
        layout = _layout(f"{what}={path}", header)
        whole = _array(member, header) if header.by_columns else None
        skipped = first * EXTRACTION_BATCH
        if whole is None:
            member.seek(skipped * math.prod(layout.shape), os.SEEK_CUR)
        for start in range(skipped, layout.count, EXTRACTION_BATCH):
            n = min(EXTRACTION_BATCH, layout.count - start)
            if whole is None:
                batch = _array(member, Header((n, *layout.shape), False, header.dtype))
            else:
                batch = np.ascontiguousarray(whole[start : start + n])
            images = torch.from_numpy(batch)
            yield images.permute(0, 3, 1, 2).contiguous() if layout.channels_last else images


def _array(member: IO[bytes], header: Header) -> np.ndarray:
    """The next numbers of a stream as an array; raises ValueError if it ends before."""
    content = bytearray(member.read(needed := header.bytes))
    if len(content) != needed:
        raise ValueError(f"it ends after {len(content)} of {needed} bytes")
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.by_columns else "C")
