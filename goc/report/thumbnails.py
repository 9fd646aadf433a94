"""The first samples of runs as pictures inside a page: one strip a run, in a style sheet, so each is stored once."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goc.report.results import SHOWN_IMAGES

SIDES = (128, 96, 64, 48, 32, 24)  # largest sides of a sample in pixels, to choose from
LARGEST_STRIPS = 1_700_000  # characters that all strips of a page may take
EXACT_SIDE = 64  # up to this side pictures are stored without loss
AMPLIFIED = 8  # times a difference is shown

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Strip:
    """Some samples of equal size beside each other, as a data URI."""

    source: str
    count: int
    width: int  # of one sample
    height: int


def strips(images: Mapping[str, Pixels]) -> dict[str, Strip]:
    """A strip of each of some images uint8 [n, C, H, W], C = 1 or 3, as large as all of them fit the page."""
    for side in SIDES:
        made, characters = {}, 0
        for name, samples in images.items():
            made[name] = _strip(samples[:SHOWN_IMAGES], side)
            characters += len(made[name].source)
            if characters > LARGEST_STRIPS and side != SIDES[-1]:
                break
        else:
            break
    return made


def amplified_difference(pixels: Pixels, target: Pixels) -> Pixels:
    """|pixels - target|, brightened AMPLIFIED times; uint8 [n, C, H, W] for as many samples as both have."""
    count = min(len(pixels), len(target))
    distance = np.abs(pixels[:count].astype(int) - target[:count].astype(int))
    return np.minimum(AMPLIFIED * distance, 255).astype(np.uint8)


def _strip(images: Pixels, side: int) -> Strip:
    """Samples [n, C, H, W] beside each other; those larger than `side` are scaled down to it."""
    count, channels, height, width = images.shape
    shrink = min(1.0, side / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    strip = Image.new("L" if channels == 1 else "RGB", (count * size[0], size[1]))
    for index, pixels in enumerate(images.transpose(0, 2, 3, 1)):
        sample = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        strip.paste(sample.resize(size, Image.Resampling.BILINEAR) if shrink < 1 else sample, (index * size[0], 0))
    file, form = io.BytesIO(), "PNG" if max(size) <= EXACT_SIDE else "WEBP"
    strip.save(file, form, optimize=True, quality=80)
    source = f"data:image/{form.lower()};base64," + base64.b64encode(file.getvalue()).decode()
    return Strip(source, count, *size)
