"""A checksum of tensors, which files of them carry."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def checksum(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """SHA-256 of names, types, shapes and values, and of what else is said of them; on the CPU."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
