"""Image files as bytes, and arrays in the order that they are saved in."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from torch import Tensor


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits, uint16 [H, W, C] with C = 1 to 4; Pillow writes only grey ones."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows)))
    chunks = (*parts, (b"IEND", b""))
    framed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def nhwc(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()
