"""What a reference knows of images' features, summed batch by batch; a process that was killed goes on where it was."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from goc.metrics.features import Extractor, Features
from goc.metrics.real_images import EXTRACTION_BATCH, RealImages
from goc.metrics.statistics import Moments
from goc.system.errors import GocError
from goc.system.files import room_for, write_atomically
from goc.system.sealed import UnusableError, sealed, unsealed

SAVED_EVERY_S, LEAST_WORK = 1.0, 20.0  # sums are saved at most so often, and after so many times what it takes

log = logging.getLogger(__name__)


@dataclass
class Sums:
    """Moments of the features of the first images, and the features of every `every`-th of all, [M, D].

    The same batches give the same bits, however often they were saved and read in between.
    """

    plain: Moments
    spatial: Moments
    features: Tensor
    every: int

    @classmethod
    def of(cls, images: RealImages, extractor: Extractor, most: int | None) -> "Sums":
        """Of no image yet. most: features of single images that are kept (None: all), evenly over the images."""
        every = 1 if most is None else -(-images.count // most)
        kept, kind = -(-images.count // every), extractor.kind
        try:
            features = torch.empty(kept, kind.size)
        except (RuntimeError, MemoryError) as error:
            raise GocError(
                f"{extractor.reference_setting}={images.path}: features of {kept} images need too much memory"
            ) from error
        return cls(Moments(kind.size), Moments(kind.spatial_size), features, every)

    @property
    def count(self) -> int:
        """Images that are in the sums."""
        return self.plain.count

    @property
    def kept(self) -> int:
        """Features of single images so far."""
        return -(-self.count // self.every)

    def add(self, batch: Features) -> None:
        """Take in the next images."""
        features = batch.features[-self.count % self.every :: self.every]
        self.features[self.kept : self.kept + len(features)] = features
        self.plain.add(batch.features)
        if batch.spatial is not None:
            self.spatial.add(batch.spatial)

    def tensors(self) -> dict[str, Tensor]:
        """All that there is to save, but for what they are of."""
        saved = {"counts": torch.tensor([self.plain.count, self.spatial.count]), "features": self.features[: self.kept]}
        for of, moments in self.moments().items():
            saved |= {f"mu{of}": torch.from_numpy(moments.mu), f"products{of}": torch.from_numpy(moments.products)}
        return saved

    def moments(self) -> dict[str, Moments]:
        """Those that there are, by the endings of their names."""
        return {"": self.plain} | ({"_s": self.spatial} if self.spatial.count else {})

    def go_on_from(self, saved: dict[str, Tensor]) -> None:
        """Become what was saved."""
        self.plain.count, self.spatial.count = saved["counts"].tolist()
        self.features[: self.kept] = saved["features"]
        for of, moments in self.moments().items():
            moments.mu, moments.products = saved[f"mu{of}"].numpy(), saved[f"products{of}"].numpy()


@dataclass(frozen=True)
class SavedSums:
    """A file of the sums of images so far. It is of an extractor and of the first images' names and contents."""

    path: Path
    images: RealImages
    extractor: Extractor

    def key(self, sums: Sums) -> dict[str, Any]:
        """What must be the same for sums to be gone on from, but for the first images."""
        return {**self.extractor.identity, "size": self.images.size, "pixels": self.images.rule, "every": sums.every}

    def first(self, count: int) -> Tensor:
        return torch.frombuffer(bytearray.fromhex(self.images.sha256_of_first(count)), dtype=torch.uint8)

    def read(self, sums: Sums) -> None:
        """Let sums go on from what is there; say so if that is of something else."""
        try:
            saved = unsealed(self.path, self.key(sums))
            count = int(saved["counts"][0])
            if count > self.images.count or not torch.equal(saved["first"], self.first(count)):
                raise UnusableError("is of other images")
        except FileNotFoundError:
            return
        except UnusableError as error:
            log.warning("%s %s: all images are read again", self.path, error)
            return
        sums.go_on_from(saved)
        log.warning("%s: goes on after %d of %d images", self.images.path, count, self.images.count)

    def write(self, sums: Sums) -> None:
        """Replace what is there."""
        with room_for(self.path, "what was saved before it is kept"):
            write_atomically(self.path, sealed(sums.tensors() | {"first": self.first(sums.count)}, self.key(sums)))


def sums_of(images: RealImages, extractor: Extractor, most: int | None, partial: Path | None) -> Sums:
    """The sums of all images. partial: where those so far are kept meanwhile; whoever keeps the result removes it."""
    sums = Sums.of(images, extractor, most)
    saved = None if partial is None else SavedSums(partial, images, extractor)
    if saved is not None:
        saved.read(sums)
    with tqdm(total=images.count, initial=sums.count, desc=f"features of {images.path.name}", unit="img") as progress:
        due = time.monotonic() + SAVED_EVERY_S
        for batch in images.batches_from(sums.count // EXTRACTION_BATCH):
            sums.add(extractor.extract(batch))
            progress.update(len(batch))
            if saved is not None and (now := time.monotonic()) >= due and sums.count < images.count:
                saved.write(sums)
                due = time.monotonic() + max(SAVED_EVERY_S, LEAST_WORK * (time.monotonic() - now))
    return sums
