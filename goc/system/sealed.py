"""Tensors on disk with what they are of and a checksum of both: a file is not trusted by its name."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from goc.system.files import json_sha256

SEAL = "seal"  # entry of a file's header: its key, and the checksum
KEY = "key"  # there; of a file of an older version, which has no checksum, the header's only entry


class UnusableError(ValueError):
    """A file that is damaged or of something else; the text goes on after its name: "is of another run"."""


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sealed(tensors: dict[str, Tensor], key: Any) -> bytes:
    """A safetensors file of tensors that belong to a key, a JSON-able value."""
    seal = {KEY: key, "sha256": json_sha256([_plain(key), tensors_sha256(tensors)])}
    return save(tensors, metadata={SEAL: json.dumps(seal)})  # one entry: safetensors writes several in any order


def in_one_order(content: bytes) -> bytes:
    """A safetensors file with its header sorted: the library writes several entries in any order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    written = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(written) <= end - 8
    return b"".join((content[:8], written.ljust(end - 8), memoryview(content)[end:]))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def unsealed(path: Path, key: Any) -> dict[str, Tensor]:
    """The tensors in a file of `sealed` that belong to a key; raises FileNotFoundError, or UnusableError.

    A file of an older version has its key, and no checksum.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        seal = json.loads(header[SEAL]) if SEAL in header else {KEY: json.loads(header.get(KEY, "null"))}
        sealed_key, checksum = seal[KEY], seal.get("sha256")
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableError(f"is damaged ({error})") from error
    if checksum is not None and checksum != json_sha256([sealed_key, tensors_sha256(tensors)]):
        raise UnusableError("is damaged (its checksum does not match)")
    if json_sha256(sealed_key) != json_sha256(_plain(key)):
        raise UnusableError("does not say whose it is" if sealed_key is None else "is of another run")
    return tensors
