"""The zoo: every transformer class of diffusers, tiny; one file for what is built alike."""

from compat.tiny import ZOO
from compat.zoo import images, others, packed, videos

__all__ = ["ZOO", "images", "others", "packed", "videos"]
