"""ADM's center crop: a square of one size from an image of any, as ImageNet's published statistics were made.

Dhariwal and Nichol, arXiv 2105.05233; DiT (arXiv 2212.09748) crops alike. What their loader makes of a file is made of
it here too: colours by Pillow's conversion to RGB, pixels as they are stored.
"""

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from goc.metrics.pixels import (
    COLOUR,
    GREY,
    PALETTE,
    UPRIGHT,
    RefusedError,
    check_single,
    in_channels,
    is_16_bit_grey,
    orientation,
)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle size x size pixels, once the shorter side is `size`.

    It is brought there by halving both sides with a box filter until it is below twice the size, and a bicubic filter
    for the rest. Sides are rounded as in ADM, and where the margin is odd its larger half is at the right and bottom.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def check_croppable(image: ImageFile) -> None:
    """Raise RefusedError for an opened image that ADM's loader would read as something else than it shows."""
    check_single(image)
    if is_16_bit_grey(image) or image.mode not in (*GREY, *COLOUR, *PALETTE, "CMYK"):
        raise RefusedError(f"is of the mode {image.mode}, must be grey, RGB or CMYK of 8 bits")


def remarks(image: ImageFile) -> list[str]:
    """What is done with an opened image that another reader may do otherwise; each goes on after a number of images."""
    texts = []
    if image.mode == "CMYK":
        texts.append("are CMYK, made RGB without a profile, as ADM's loader does")
    if (turned := orientation(image)) not in UPRIGHT and turned in range(9):
        texts.append("are to be turned when shown (EXIF), and are not, as in ADM's loader")
    if image.has_transparency_data:
        texts.append("have an alpha channel, which is dropped, as ADM's loader does")
    return texts


def cropped_pixels(image: ImageFile, channels: int, size: int) -> np.ndarray:
    """The pixels of an opened image's center crop, uint8 [size, size, channels]; raises as `goc.metrics.pixels`."""
    check_croppable(image)
    image.load()
    return in_channels(np.asarray(center_crop(image.convert("RGB"), size)), channels)
