"""The samples of one run on disk: shards of consecutive samples, each one checksummed file.

A shard is one safetensors file, written atomically, that says in its header which samples of which run it holds, with
checksums of its tensors and of that. Shards are independent of each other, so they may be made in any order and by any
worker.
"""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from goc.system.errors import GocError
from goc.system.files import room_for, write_atomically
from goc.system.locks import Lock
from goc.system.sealed import UnusableError, json_sha256, tensors_sha256

SHARD = "shard"  # entry of a shard's header: the checksum of its tensors, its cost, and
OF = "of"  # the identity of the run it is of,
SAMPLES = "samples"  # the first and the last one; older shards do not say, and have no
SAID = "said"  # checksum of all that the header says

log = logging.getLogger(__name__)


class Keep:
    """What shards keep of the samples: labels [n], latents [n, C, H, W] and uint8 images [n, C', H', W']."""

    def names(self, indices: range) -> frozenset[str]:
        """Names of the tensors that the shard of these samples keeps."""
        return frozenset({"labels", "latents", "images"})

    def __call__(self, indices: range, made: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those tensors, of the samples as they were made (`Generation.decoded`), maybe before a GPU has made them."""
        return {name: made[name] for name in self.names(indices)}

    def check(self, kept: dict[str, Tensor]) -> None:
        """Raise GocError if tensors that are kept, on the CPU, are no numbers."""


def header_of(path: Path) -> dict[str, Any]:
    """What a shard's header says; raises UnusableError if there is none, or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[SHARD])
        said = {name: value for name, value in about.items() if name != SAID}
        whole = {"sha256", "cost"} <= said.keys() and (SAMPLES in about) == (SAID in about)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnusableError(f"is damaged ({error})") from error
    if not whole or (SAID in about and about[SAID] != json_sha256(said)):
        raise UnusableError("is damaged (its header's checksum does not match)")
    return said


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
        # taken by the thread that samples, and given back by the one that writes
        return Lock(folder / f"{indices.start:06d}.lock", thread_local=False)

    def write(self, indices: range, tensors: dict[str, Tensor], cost: dict[str, Any]) -> None:
        """Put a finished shard on disk; `cost` is kept in its header. Raises GocError if there is no room."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        about = {"sha256": tensors_sha256(tensors), "cost": cost, SAMPLES: [indices.start, indices.stop - 1]}
        about |= {OF: self.identity} if self.identity else {}
        about = json.loads(json.dumps(about))
        about[SAID] = json_sha256(about)
        with room_for(self.path(indices)):
            # one entry, because safetensors writes several in any order
            write_atomically(self.path(indices), save(tensors, metadata={SHARD: json.dumps(about)}))

    def read(self, indices: range) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A shard's tensors and its cost.

        Raises UnusableError if it is damaged or holds other samples, GocError if it is another run's.
        """
        path = self.path(indices)
        try:
            about = header_of(path)
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        except (SafetensorError, OSError) as error:
            raise UnusableError(f"is damaged ({error})") from error
        if about["sha256"] != tensors_sha256(tensors):
            raise UnusableError("is damaged (checksum does not match)")
        if not self._matches(about):
            raise GocError(
                f"{path}: of another run, with other weights, another schedule or another calibration; "
                f"move {self.folder} away, or choose another name"
            )
        if about.get(SAMPLES, asked := [indices.start, indices.stop - 1]) != asked:
            raise UnusableError("is a copy of another shard (samples {} to {})".format(*about[SAMPLES]))
        return tensors, about["cost"]

    def _matches(self, about: dict[str, Any]) -> bool:
        """Whether a shard is this run's by what its header says; older ones do not say."""
        return None in (self.identity, of := about.get(OF)) or of == self.identity

    def finished(self, indices: range, kept: frozenset[str] = frozenset()) -> bool:
        """Whether a shard is on disk, whole, and has the tensors named by `kept`.

        One that is damaged, or of other samples, is removed with a warning, to be made again; so is one that was made
        for a run that kept less. Raises GocError, and leaves it, if it is another run's.
        """
        if not self.path(indices).exists():
            return False
        try:
            tensors, _ = self.read(indices)
        except UnusableError as error:
            log.warning("%s %s: it is made again", self.path(indices), error)
            self.path(indices).unlink()
            return False
        return kept <= tensors.keys()

    def remove_copies(self) -> None:
        """Remove shards that are equal to another one and do not say which samples they hold, as older ones do not.

        Which of them the samples are is not known, so all of these are made again, with a warning each. What another
        worker is making is left.
        """
        headers = {indices: about for indices in self.shards if (about := self._said(indices)) and self._matches(about)}
        if all(SAMPLES in about for about in headers.values()):
            return
        counts = Counter(about["sha256"] for about in headers.values())
        for indices, about in headers.items():
            if SAMPLES in about or counts[about["sha256"]] == 1:
                continue
            with contextlib.suppress(Timeout), self.lock(indices).acquire(blocking=False):
                if self._said(indices) == about:
                    log.warning("%s is equal to another shard: it is made again", self.path(indices))
                    self.path(indices).unlink()

    def _said(self, indices: range) -> dict[str, Any] | None:
        """What a shard's header says; None if there is none, or it cannot be read."""
        try:
            return header_of(self.path(indices))
        except UnusableError:
            return None

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
