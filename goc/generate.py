"""Seeds -> shards -> images: resumable generation whose every image depends only on its seed and the settings.

Work is cut into shards of `batch_size` consecutive samples. A shard is one safetensors file, written atomically, with
a checksum of its tensors in its header; a restart makes what is missing or damaged. Shards are independent of each
other, so they may be made in any order and by any worker.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from goc.caching.cache import FeatureCache, StepCache
from goc.caching.cost import image_macs
from goc.caching.schedule import cache_ratio_of
from goc.diffusion import NoiseSchedule, SamplerName, guided_denoiser, sample
from goc.errors import GocError
from goc.files import write_atomically
from goc.interrupt import StopRequests
from goc.models.decoder import to_uint8
from goc.models.dit import DiT
from goc.workers import Workers

SHARD = "shard"  # entry of a shard's header: its checksum and cost

log = logging.getLogger(__name__)


def draw(seed: int, index: int, num_classes: int) -> tuple[torch.Generator, int]:
    """Sample `index`'s own random generator (CPU), and its class label, drawn from it first."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    return generator, int(torch.randint(num_classes, (), generator=generator))


@dataclass(frozen=True)
class Generation:
    """Everything that decides what sample i looks like, apart from i.

    new_cache makes a feature cache for one batch; None computes everything. decode turns latents [N, C, H, W] into
    images [N, 3 or 1, H', W'] in [-1, 1].
    """

    model: DiT
    schedule: NoiseSchedule
    sampler: SamplerName
    cfg_scale: float
    cfg_channels: int
    seed: int
    decode: Callable[[Tensor], Tensor]
    device: torch.device
    new_cache: Callable[[], StepCache] | None = None
    method: str = "none"  # for messages
    divergence_hint: str = ""
    autocast: torch.dtype | None = None  # the format of the denoiser's products; None: as the weights are

    def trajectory(self, indices: range, cache: StepCache | None) -> tuple[Tensor, Iterator[Tensor]]:
        """Labels [n] of the samples with these indices, and an iterator over x [n, C, H, W] after each step."""
        drawn = [draw(self.seed, index, self.model.num_classes) for index in indices]
        generators = [generator for generator, _ in drawn]
        labels = torch.tensor([label for _, label in drawn], device=self.device)
        shape = (self.model.in_channels, self.model.input_size, self.model.input_size)

        def gaussian() -> Tensor:
            return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)

        def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                return self.model(x, t, y, cache).to(x.dtype)

        guided = guided_denoiser(
            model, self.schedule, labels, self.model.num_classes, self.cfg_scale, self.cfg_channels
        )

        def denoise(x: Tensor, i: int) -> Tensor:
            if cache is not None:
                cache.begin_step(i)
            return guided(x, i)

        return labels, sample(denoise, gaussian(), self.schedule, self.sampler, lambda _: gaussian())

    @torch.inference_mode()
    def make(self, indices: range) -> tuple[dict[str, Tensor], StepCache | None]:
        """Samples [n] of the given indices: latents, labels and uint8 images; and the cache after its last step.

        Raises GocError naming the step when values stop being finite.
        """
        cache = self.new_cache() if self.new_cache else None
        labels, steps = self.trajectory(indices, cache)
        finite = []
        for x in steps:
            finite.append(torch.isfinite(x).all())  # looked at after the last step: no waiting for a GPU before
        self._raise_if_not_finite(torch.stack(finite).tolist(), indices)
        return {"latents": x, "labels": labels, "images": to_uint8(self.decode(x))}, cache

    def cost(self, cache: StepCache | None) -> dict[str, Any]:
        """What a batch really cost: its cache ratio, MACs per image, and what its cache held at most."""
        guided = self.cfg_scale != 1.0
        if not isinstance(cache, FeatureCache):
            nothing = torch.zeros(len(self.schedule), 1, 1, dtype=torch.bool)
            macs = image_macs(self.model, nothing, guided)
            return {"cache_ratio": 0.0, "macs_per_image": macs, "peak_cache_tensors": 0, "peak_cache_bytes": 0}
        return {
            "cache_ratio": cache_ratio_of(cache.mask),
            "macs_per_image": image_macs(self.model, cache.mask, guided, cache.site),
            "peak_cache_tensors": cache.peak_cache_tensors,
            "peak_cache_bytes": cache.peak_cache_bytes,
        }

    def synchronize(self) -> None:
        """Wait for a GPU to finish what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _raise_if_not_finite(self, finite: list[bool], indices: range) -> None:
        if all(finite):
            return
        raise GocError(
            f"samples {indices.start}..{indices.stop - 1}: not finite after step {finite.index(False)} "
            f"of {len(finite)} (method {self.method}){self.divergence_hint}"
        )


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


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

    What a shard holds depends on its samples and the settings alone, so the same run leaves the same files.
    """

    def __init__(self, folder: Path, num_samples: int, batch_size: int) -> None:
        self.folder, self.num_samples = folder, num_samples
        starts = range(0, num_samples, batch_size)
        self.shards = [range(start, min(start + batch_size, num_samples)) for start in starts]

    def path(self, indices: range) -> Path:
        """File of one shard, named by its samples."""
        return self.folder / f"shard-{indices.start:06d}-{indices.stop - 1:06d}.safetensors"

    def lock(self, indices: range) -> FileLock:
        """Held by the worker that makes the shard; free again as soon as that process has ended, however it ends."""
        folder = self.folder / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{indices.start:06d}.lock")

    def write(self, indices: range, tensors: dict[str, Tensor], cost: dict[str, Any]) -> None:
        """Put a finished shard on disk; `cost` is kept in its header. Raises GocError if there is no room."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        about = {"sha256": _checksum(tensors), "cost": cost}
        try:
            # one entry, because safetensors writes several in any order
            write_atomically(self.path(indices), save(tensors, metadata={SHARD: json.dumps(about)}))
        except OSError as error:
            raise GocError(
                f"{self.path(indices)}: could not be written ({error.strerror}); the finished shards are kept: "
                "make room, and start the same command again"
            ) from error

    def read(self, indices: range) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A shard's tensors and its cost; raises ValueError if it is damaged."""
        try:
            with safe_open(self.path(indices), framework="pt") as file:
                about = json.loads(file.metadata()[SHARD])
                tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise ValueError(str(error)) from error
        if about["sha256"] != _checksum(tensors):
            raise ValueError("checksum does not match")
        return tensors, about["cost"]

    def finished(self, indices: range, kept: frozenset[str] = frozenset()) -> bool:
        """Whether a shard is on disk, whole, and has the tensors named by `kept`.

        A damaged one is removed with a warning, to be made again; so is one that was made for a run that kept less.
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


def generate(
    generation: Generation,
    samples: SampleSet,
    keep: Keep,
    workers: Workers,
) -> int:
    """Make every shard that is not on disk yet, with the other workers; returns how many samples were made here.

    Each worker takes the shards that no other one is making, its own share first. The leader ends when all are on disk,
    having made those of workers that died; the others end when there is nothing left to take. Shows progress, rate and
    ETA. A signal to stop is obeyed between two shards (interrupt.py).
    """
    own_share_first = samples.shards[workers.rank :: workers.count]
    own_share_first += [indices for indices in samples.shards if indices not in own_share_first]
    pending = [indices for indices in own_share_first if not samples.finished(indices, keep.names(indices))]
    if not pending:
        return 0

    def make(indices: range, wait: bool) -> int:
        """Samples made of one shard; raises Timeout if another worker is making it and is not to be waited for."""
        with samples.lock(indices).acquire(blocking=wait):
            if samples.finished(indices, keep.names(indices)):
                return 0
            made, cache = generation.make(indices)
            samples.write(indices, keep(indices, made), generation.cost(cache))
            return len(indices)

    count, title = 0, generation.method
    bar = tqdm(total=samples.num_samples, initial=samples.made(), desc=title, unit="img", disable=not workers.leads)
    with bar as progress, StopRequests() as stop:
        for wait in (False, True) if workers.leads else (False,):
            left = []
            for indices in pending:
                try:
                    count += make(indices, wait)
                except Timeout:
                    left.append(indices)
                progress.update(samples.made() - progress.n)
                stop.check()
            pending = left
    return count


@torch.inference_mode()
def side_by_side(generations: Sequence[Generation], samples: int, repeats: int) -> list[float]:
    """Sampling time of each generation, seconds per image in batches of `samples`: the sum of each step's fastest.

    The generations take turns, one trajectory each, so that a machine whose speed drifts favours none of them; a step
    that something disturbed does not count if another repeat was spared.
    """
    fastest = [[math.inf] * len(generation.schedule) for generation in generations]
    for _ in range(repeats):
        for generation, own in zip(generations, fastest, strict=True):
            cache = generation.new_cache() if generation.new_cache else None
            _, trajectory = generation.trajectory(range(samples), cache)
            for step in range(len(own)):
                generation.synchronize()
                start = time.perf_counter()
                next(trajectory)
                generation.synchronize()
                own[step] = min(own[step], time.perf_counter() - start)
    return [sum(own) / samples for own in fastest]
