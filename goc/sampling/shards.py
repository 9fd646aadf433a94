"""The samples of one run on disk: shards of consecutive samples, each one checksummed file.

A shard is one safetensors file, written atomically, with a checksum of its tensors in its header. Shards are
independent of each other, so they may be made in any order and by any worker.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from goc.system.checksum import checksum
from goc.system.errors import GocError
from goc.system.files import room_for, write_atomically
from goc.system.locks import Lock

SHARD = "shard"  # entry of a shard's header: its checksum and cost, and
OF = "of"  # the identity of the run it is of, and
SAMPLES = "samples"  # its first and last one; older shards do not say

log = logging.getLogger(__name__)


def _samples(indices: range) -> list[int]:
    """The first and the last one of a shard."""
    return [indices.start, indices.stop - 1]


class Keep:
    """What shards keep of the samples: labels [n], latents [n, C, H, W] and uint8 images [n, C', H', W']."""

    def names(self, indices: range) -> frozenset[str]:
        """Names of the tensors that the shard of these samples keeps."""
        return frozenset({"labels", "latents", "images"})

    def __call__(self, indices: range, made: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those tensors, of the samples as they were made (`Generation.make`)."""
        return {name: made[name] for name in self.names(indices)}


class SampleSet:
    """The samples of one run on disk: `num_samples` in shards of `batch_size`, in a folder of their own.

    What a shard holds depends on its samples and the settings alone, so the same run leaves the same files. identity: a
    short name for all that decides the samples, which each shard carries; None: whatever is there is taken.
    """

    def __init__(self, folder: Path, num_samples: int, batch_size: int, identity: str | None = None) -> None:
        self.folder, self.num_samples, self.identity = folder, num_samples, identity
        starts = range(0, num_samples, batch_size)
        self.shards = [range(start, min(start + batch_size, num_samples)) for start in starts]

    def path(self, indices: range) -> Path:
        """File of one shard, named by its samples."""
        return self.folder / f"shard-{indices.start:06d}-{indices.stop - 1:06d}.safetensors"

    def lock(self, indices: range) -> Lock:
        """Held by the worker that makes the shard; free again as soon as that process has ended, however it ends."""
        folder = self.folder / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return Lock(folder / f"{indices.start:06d}.lock")

    def write(self, indices: range, tensors: dict[str, Tensor], cost: dict[str, Any]) -> None:
        """Put a finished shard on disk; `cost` is kept in its header. Raises GocError if there is no room."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        samples = _samples(indices)
        about = {"sha256": checksum(tensors, str(samples)), SAMPLES: samples, "cost": cost}
        about |= {OF: self.identity} if self.identity else {}
        with room_for(self.path(indices)):
            # one entry, because safetensors writes several in any order
            write_atomically(self.path(indices), save(tensors, metadata={SHARD: json.dumps(about)}))

    def read(self, indices: range) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A shard's tensors and its cost; raises ValueError if it is damaged, GocError if it is another run's."""
        try:
            with safe_open(self.path(indices), framework="pt") as file:
                about = json.loads(file.metadata()[SHARD])
                tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise ValueError(str(error)) from error
        samples = about.get(SAMPLES)
        if about["sha256"] != checksum(tensors, "" if samples is None else str(samples)):
            raise ValueError("checksum does not match")
        if samples not in (None, _samples(indices)):
            raise ValueError(f"it is of samples {samples[0]} to {samples[1]}")
        if None not in (self.identity, of := about.get(OF)) and of != self.identity:  # older shards do not say
            raise GocError(
                f"{self.path(indices)}: of another run, with other weights, another schedule or another calibration; "
                f"move {self.folder} away, or choose another name"
            )
        return tensors, about["cost"]

    def finished(self, indices: range, kept: frozenset[str] = frozenset()) -> bool:
        """Whether a shard is on disk, whole, and has the tensors named by `kept`.

        A damaged one is removed with a warning, to be made again; so is one that was made for a run that kept less.
        Raises GocError, and leaves it, if it is another run's.
        """
        if not self.path(indices).exists():
            return False
        try:
            tensors, _ = self.read(indices)
        except ValueError as error:
            log.warning("%s is damaged (%s): it is made again", self.path(indices), error)
            self.path(indices).unlink()
            return False
        return kept <= tensors.keys()

    def tensors(self, *names: str) -> Iterator[dict[str, Tensor]]:
        """The named tensors of every shard in order of the samples; one shard is in memory at a time."""
        for indices in self.shards:
            with safe_open(self.path(indices), framework="pt") as file:
                yield {name: file.get_tensor(name) for name in names}

    def images(self) -> Iterator[Tensor]:
        """uint8 images [n, C, H, W] of every shard in order; of a run that kept them all."""
        for tensors in self.tensors("images"):
            yield tensors["images"]

    def first_images(self, count: int) -> Tensor:
        """uint8 images of the first `count` samples, or of all if there are fewer."""
        shards = (indices for indices in self.shards if indices.start < count)
        return torch.cat([self.read(indices)[0]["images"] for indices in shards])[:count]

    def costs(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number of samples and cost of every shard."""
        for indices in self.shards:
            with safe_open(self.path(indices), framework="pt") as file:
                yield len(indices), json.loads(file.metadata()[SHARD])["cost"]

    def made(self) -> int:
        """How many samples are on disk, by the names of the files alone."""
        on_disk = {path.name for path in self.folder.glob("shard-*")}
        return sum(len(indices) for indices in self.shards if self.path(indices).name in on_disk)
