"""Pictures and videos for pipelines that ask for them."""

import numpy as np
from PIL import Image

from compat.tiny import Ask


def picture(ask: Ask, mask: bool = False) -> Image.Image:
    """A picture of noise; a mask: its upper half."""
    side = 8 * ask.size
    if mask:
        return Image.fromarray(np.where(np.arange(side)[:, None] < side // 2, 255, 0).repeat(side, 1).astype(np.uint8))
    return Image.fromarray((255 * ask.noise(side, side, 3).sigmoid()).byte().numpy())


def video(ask: Ask, frames: int = 5) -> list[Image.Image]:
    """The same picture over and over."""
    return [picture(ask)] * frames
