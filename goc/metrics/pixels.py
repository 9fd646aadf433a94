"""The pixels of one image file: read right, or refused with the reason."""

import io
import lzma
import struct
import textwrap
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from goc.metrics.image_folder import FORMATS
from goc.system.errors import GocError

# what a damaged file can mean to Pillow
DAMAGE = (
    OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError,
    MemoryError, EOFError, struct.error, zlib.error, lzma.LZMAError, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip
GREY, COLOUR, PALETTE = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBa", "RGBX"), ("P", "PA")
BIT16 = ("I;16", "I;16L", "I;16B", "I;16N")
EXIF_MARKS = (b"exif", b"adobe.xmp")  # in the names of a PNG's chunks, or of the texts there
UPRIGHT = (0, 1)  # of EXIF's orientations: not known, and as it is stored
OPAQUE = 255
BITS_PER_SAMPLE, PHOTOMETRIC, MIN_IS_WHITE, PLANAR, APART = 258, 262, 0, 284, 2  # tags of TIFF, and values
SRGB_GAMMA = 1 / 2.2


class RefusedError(Exception):
    """An image whose pixels would have to be guessed; the text goes on after its name: "has transparent pixels"."""


@contextmanager
def named(image: str) -> Iterator[None]:
    """Whatever is wrong with an image is a GocError that begins with its name."""
    try:
        yield
    except (RefusedError, *DAMAGE) as error:
        damage = f"is damaged or no image ({textwrap.shorten(str(error) or type(error).__name__, 200)})"
        raise GocError(f"{image} {error if isinstance(error, RefusedError) else damage}") from error


class PillowsWarnings:
    """While any thread is inside: warnings of odd tags are ignored, that of a decompression bomb is an error.

    Filters belong to the process, so the first thread to enter sets them, and the last to leave puts back the old.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = warnings.catch_warnings()
                self.before.__enter__()
                warnings.simplefilter("ignore", UserWarning)  # without pixels that are needed it is an error
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.before.__exit__(None, None, None)


PILLOWS_WARNINGS = PillowsWarnings()


@contextmanager
def opened(content: bytes | IO[bytes]) -> Iterator[ImageFile]:
    """An image file, or its content, opened but not decoded; raises one of DAMAGE, also for a decompression bomb."""
    with PILLOWS_WARNINGS:
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(file, formats=list(FORMATS)) as image:
            yield image


def other_colours(image: ImageFile) -> bool:
    """Whether an opened image says that its colours are not sRGB: by an ICC profile of another name, or its gamma."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if profile:
        return not any("sRGB".encode(coding) in profile for coding in ("ascii", "utf-16-be"))
    return isinstance(gamma, float) and abs(gamma - SRGB_GAMMA) > 0.01


def check_single(image: ImageFile) -> None:
    """Raise RefusedError for an opened file of several pictures."""
    if (frames := getattr(image, "n_frames", 1)) != 1:
        raise RefusedError(f"has {frames} pictures in it, must have one")


def check_layout(image: ImageFile) -> None:
    """Raise RefusedError for an opened image whose pixels mean something else than 8-bit or 16-bit grey or colour."""
    check_single(image)
    halved = has_16_bits(image)  # before what may decode it: Pillow forgets it then
    if (turned := orientation(image)) not in UPRIGHT and turned in range(9):
        raise RefusedError(
            f"is to be turned when shown (EXIF orientation {turned}): turn its pixels, or remove the tag"
        )
    sixteen = is_16_bit_grey(image)
    if not (sixteen or image.mode in GREY + COLOUR + PALETTE):
        raise RefusedError(f"is of the mode {image.mode}, must be grey or RGB of 8 or 16 bits")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # of Pillow's TIFF images
        if sixteen and (tags.get(PHOTOMETRIC) == MIN_IS_WHITE or tags.get(BITS_PER_SAMPLE, (16,)) != (16,)):
            raise RefusedError("is a TIFF of grey where 0 is white, or of 9 to 15 bits: make it 8 bits")
        if tags.get(PLANAR) == APART and max(tags.get(BITS_PER_SAMPLE, (1,))) > 8:  # Pillow takes its bytes for pixels
            raise RefusedError("is a TIFF of more than 8 bits that keeps each colour apart: interleave them")
    if (sixteen or halved) and "transparency" in image.info:
        raise RefusedError("is transparent in one of its 16-bit colours: composite it")


def orientation(image: ImageFile) -> int:
    """EXIF's orientation of an opened image; 1 where there is none. A PNG is decoded only if it may have one."""
    if image.format == "PNG" and image.fp is not None:
        place = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read().lower()
        image.fp.seek(place)
        if not any(mark in content for mark in EXIF_MARKS):
            return 1
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def is_16_bit_grey(image: ImageFile) -> bool:
    """Whether an opened image is grey of 16 bits, all of which Pillow gives."""
    return image.mode in BIT16 or (image.mode == "I" and image.format in ("PNG", "PPM"))


def has_16_bits(image: ImageFile) -> bool:
    """Whether an opened image is stored in 16 bits, of which Pillow gives the higher 8, or for a PPM the nearest."""
    return any(";16" in str(tile.args) for tile in image.tile) or is_wide_ppm(image)


def is_wide_ppm(image: ImageFile) -> bool:
    """Whether an opened image is a PPM in colour with more than 256 levels."""
    largest = [tile.args[-1] for tile in image.tile if isinstance(tile.args, tuple)]
    return image.format == "PPM" and image.mode == "RGB" and any(level > OPAQUE for level in largest)


def read_otherwise_before(image: ImageFile) -> bool:
    """Whether an older version read other pixels of an opened image, or may have: of 16 bits, transparent, turned."""
    if is_16_bit_grey(image) or has_16_bits(image) or image.has_transparency_data:
        return True
    try:
        check_layout(image)
    except RefusedError:
        return True
    return False


def _wide_values(image: ImageFile) -> np.ndarray:
    """The 16-bit values [H, W, 3] of a PPM, by reading its colours as a grey image of three times its width."""
    (width, height), tile = image.size, image.tile[0]
    assert isinstance(tile.args, tuple)
    assert image.fp is not None
    image.fp.seek(tile.offset)
    kind = "P2" if tile.codec_name == "ppm_plain" else "P5"
    header = f"{kind} {3 * width} {height} {tile.args[-1]}\n".encode()
    with opened(header + image.fp.read()) as grey:
        return np.asarray(grey).reshape(height, width, 3)


def pixels(image: ImageFile, channels: int) -> np.ndarray:
    """The pixels of an opened image: uint8 [H, W, channels], channels 1 or 3.

    16 bits become 8 by the higher byte, which is exact for 8-bit images stored in 16 bits. Opaque alpha is dropped; a
    grey image is the same in three channels. Raises RefusedError where that would be a guess, or one of DAMAGE.
    """
    halved = has_16_bits(image)
    check_layout(image)
    values = _wide_values(image) if is_wide_ppm(image) else None
    image.load()
    if image.has_transparency_data and (np.asarray(image.convert("RGBA"))[..., -1] != OPAQUE).any():
        raise RefusedError("has transparent pixels, and what is behind them is not known: composite it first")
    if values is None and is_16_bit_grey(image):
        values = np.asarray(image)
    if values is not None:
        halved, array = True, (values >> 8).astype(np.uint8)
        dark = 0 < values.max() < 256
    else:
        array = np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
        dark = halved and not array.any()
    if halved and dark:
        raise RefusedError("is of 16 bits but has no value above 255: store it in 8 bits if 255 is white")
    return in_channels(array, channels)


def in_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Pixels [H, W] or [H, W, 3] as [H, W, channels], channels 1 or 3; raises RefusedError for colours as grey."""
    if array.ndim == 2:
        return np.repeat(array[..., None], channels, axis=-1)
    if channels == 3:
        return np.array(array)
    if (array != array[..., :1]).any():
        raise RefusedError("is in colour, must be grey for this extractor")
    return array[..., :1].copy()
