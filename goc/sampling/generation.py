"""From a seed to a sample: everything that decides what sample i looks like, and what it cost."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from goc.caching.cache import AdaptiveCache, ScheduledCache, StepCache
from goc.caching.halves import HalfCaches
from goc.caching.samples import SampleCaches, for_batch
from goc.caching.schedule import cache_ratio_of
from goc.caching.selection import partly_of
from goc.models.cost import forward_macs, image_macs, looking_macs
from goc.models.decoder import to_uint8
from goc.models.network import Network
from goc.sampling.graphs import Around, Graphs
from goc.sampling.guidance import Denoiser, guided_denoiser, halved_denoiser
from goc.sampling.solvers import Solver
from goc.system.device import synchronize
from goc.system.errors import ConfigError, GocError

NewCache = Callable[[], StepCache]
CACHES_STREAM = (1,)  # of a sample's random numbers: what caches draw
FINITE = "finite"  # of samples in the making, bool: their values after each step, and those of their images


def sample_generator(seed: int, index: int, stream: Sequence[int] = ()) -> torch.Generator:
    """Sample `index`'s own random generator (CPU); stream: another one, for what has no say in its noise."""
    state = np.random.SeedSequence([seed, index], spawn_key=stream).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def draw(seed: int, index: int, num_classes: int) -> tuple[torch.Generator, int]:
    """Sample `index`'s own random generator (CPU), and its class label, drawn from it first."""
    generator = sample_generator(seed, index)
    return generator, int(torch.randint(num_classes, (), generator=generator))


def check_finite(finite: list[bool], indices: range, method: str, hint: str) -> None:
    """Raise GocError if the values of these samples were not finite after each of the steps; hint: what to try."""
    if not all(finite):
        raise GocError(
            f"samples {indices.start}..{indices.stop - 1}: not finite after step {finite.index(False)} "
            f"of {len(finite)} (method {method}){hint}"
        )


class SampleSource(Protocol):
    """What samples come from: a denoiser of this project (`Generation`), or a pipeline (goc/pipelines/generation.py).

    method: for messages. evaluations: of the network for a sample without a cache; a guided one counts once.
    macs_per_forward: of one of them, for one sample and without guidance.
    """

    @property
    def method(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def evaluations(self) -> int: ...

    @property
    def macs_per_forward(self) -> float: ...

    def sample(self, indices: range) -> tuple[dict[str, Tensor], Any]:
        """Samples of the given indices, as far as they must be made before the next; and what `cost` takes."""

    def decoded(self, sampled: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same as shards keep them (`goc.sampling.shards.Keep`), maybe before a GPU has made them."""

    def check(self, indices: range, made: dict[str, Tensor]) -> None:
        """Wait for what is `decoded`; raises GocError if it is not finite."""

    def cost(self, made_with: Any) -> dict[str, Any]:
        """What a batch cost: cache_ratio, macs_per_image, peak_cache_tensors and _bytes; None: one without a cache."""

    def step_seconds(self, samples: int) -> list[float]:
        """How long each step of the sampling loop takes now, for a batch of so many samples."""


class MadeAtOnce:
    """A `SampleSource` whose samples are decoded and checked when they are there, as by `make(indices)`."""

    def make(self, indices: range) -> tuple[dict[str, Tensor], Any]:
        raise NotImplementedError

    def sample(self, indices: range) -> tuple[dict[str, Tensor], Any]:
        return self.make(indices)

    def decoded(self, sampled: dict[str, Tensor]) -> dict[str, Tensor]:
        return sampled

    def check(self, indices: range, made: dict[str, Tensor]) -> None:
        pass


@dataclass(frozen=True)
class Generation:
    """Everything that decides what sample i looks like, apart from i.

    new_cache makes a feature cache for one batch; None computes everything. labels: of the samples by their index, from
    the first again after the last; (): each draws its own. decode turns latents [N, C, H, W] into
    images [N, 3 or 1, H', W'] in [-1, 1]. Raises ConfigError for what the model lacks: a null label for guidance, a
    learned variance for DDPM.
    """

    model: Network
    solver: Solver
    cfg_scale: float
    cfg_channels: int
    seed: int
    decode: Callable[[Tensor], Tensor]
    device: torch.device
    new_cache: NewCache | None = None
    labels: tuple[int, ...] = ()
    method: str = "none"  # for messages
    divergence_hint: str = ""
    autocast: torch.dtype | None = None  # the format of the denoiser's products; None: as the weights are
    graphs: Graphs | None = field(default=None, compare=False)  # of `make`; the same bits

    def __post_init__(self) -> None:
        if self.cfg_scale != 1.0 and not self.model.null_label:
            raise ConfigError(
                f"cfg_scale={self.cfg_scale:g}: must be 1 with this checkpoint, whose label table has no null label"
            )
        if self.solver.needs_variance and not self.model.learned_variance:
            raise ConfigError(
                "sampler=ddpm: not supported with this checkpoint, which has no learned variance (learn_sigma=False)"
            )

    @property
    def evaluations(self) -> int:
        return len(self.solver.grid)

    @property
    def macs_per_forward(self) -> float:
        return forward_macs(self.model)

    def drawn(self, indices: Sequence[int]) -> tuple[Tensor, Callable[[], Tensor]]:
        """Labels [n] of the samples with these indices, and their Gaussian noise [n, C, H, W], another in every call.

        The first is x_T.
        """
        drawn = [draw(self.seed, index, self.model.num_classes) for index in indices]
        generators = [generator for generator, _ in drawn]  # a label is drawn in any case: noise is the seed's alone
        given = [self.labels[index % len(self.labels)] for index in indices] if self.labels else None
        labels = torch.tensor(given or [label for _, label in drawn], device=self.device)
        shape = (self.model.in_channels, self.model.input_size, self.model.input_size)

        def gaussian() -> Tensor:
            return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)

        return labels, gaussian

    def denoiser(
        self, labels: Tensor, cache: StepCache | None, times: np.ndarray | Tensor, around: Around | None = None
    ) -> Denoiser:
        """What a solver asks in each of its evaluations: the network, guided, for samples with these labels [n].

        times [evaluations]: what the network is given in them; of a tensor, gradients flow to it. around: makes another
        network of the network.
        """
        if isinstance(cache, HalfCaches):
            assert isinstance(times, np.ndarray)  # nothing is trained where the halves do not go together
            return self.halved_denoiser(labels, cache, times)

        def evaluated(x: Tensor, t: Tensor, y: Tensor, within: StepCache | None) -> Tensor:
            with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                return self.model(x, t, y, within).to(x.dtype)

        def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            if isinstance(cache, SampleCaches) and cache.of_network:
                return cache.network(x, lambda rows: evaluated(x[rows], t, y[rows], None))
            return evaluated(x, t, y, cache)

        network = model if around is None else around(model)
        times = times if cache is None or cache.times is None else cache.times
        guided = guided_denoiser(network, times, labels, self.model.num_classes, self.cfg_scale, self.cfg_channels)

        def denoise(x: Tensor, i: int) -> Tensor:
            if cache is not None:
                cache.begin_step(i)
            return guided(x, i)

        return denoise

    def halved_denoiser(self, labels: Tensor, caches: HalfCaches, times: np.ndarray) -> Denoiser:
        """The same where the halves of the guidance do not always go together: each is evaluated by itself."""
        places, null = caches.halves.places, torch.full_like(labels, self.model.num_classes)
        unguided = replace(self, cfg_scale=1.0)
        conditional = unguided.denoiser(labels, caches.conditional, times)
        unconditional = unguided.denoiser(null, caches.unconditional, times[places])
        place_of = {evaluation: place for place, evaluation in enumerate(places)}
        return halved_denoiser(
            conditional, lambda x, i: unconditional(x, place_of[i]), caches, self.cfg_scale, self.cfg_channels
        )

    def batch_cache(self, samples: int) -> StepCache | None:
        """A cache with empty state for a batch of so many samples: one for all, or one for each."""
        if self.new_cache is None:
            return None
        cache = for_batch(self.new_cache, samples)
        return cache.for_batch(samples) if isinstance(cache, HalfCaches) else cache

    def batch_start(self, samples: int) -> tuple[StepCache | None, Around | None]:
        """What a batch of so many samples begins with: an empty cache, or the one whose evaluations are replayed."""
        graphs = self.valid_graphs
        if graphs is None or samples not in graphs.sizes:
            return self.batch_cache(samples), None
        return graphs.sizes[samples].cache, graphs.sizes[samples].replayed

    @property
    def valid_graphs(self) -> Graphs | None:
        """The graphs, if they are of this generation's caches, and not of one that it was made from."""
        return self.graphs if self.graphs is not None and self.graphs.new_cache is self.new_cache else None

    def capture(self, indices: range, cache: StepCache | None, latents: Tensor) -> None:
        """Capture what makes latents [n, C, H, W] as these, with a cache as this, where that is due."""
        graphs = self.valid_graphs
        if graphs is None or not graphs.due(len(indices), cache):
            return

        def sample(indices: range, cache: StepCache | None, around: Around) -> Tensor:
            *_, x = self.trajectory(indices, cache, around)[1]
            return x

        other = range(indices.stop, indices.stop + len(indices))
        graphs.prove(self.batch_cache(len(indices)), (other, indices), sample, latents)

    def trajectory(
        self, indices: range, cache: StepCache | None, around: Around | None = None
    ) -> tuple[Tensor, Iterator[Tensor]]:
        """Labels [n] of the samples with these indices, and an iterator over x [n, C, H, W] after each step.

        around: as for `denoiser`.
        """
        labels, gaussian = self.drawn(indices)
        if cache is not None:
            cache.draw_from([sample_generator(self.seed, index, CACHES_STREAM) for index in indices])
        denoise = self.denoiser(labels, cache, self.solver.grid.times, around)
        return labels, self.solver.sample(denoise, gaussian(), gaussian)

    def make(self, indices: range) -> tuple[dict[str, Tensor], StepCache | None]:
        """Samples [n] of the given indices: latents, labels and uint8 images; and the cache after its last step.

        Raises GocError naming the step when values stop being finite.
        """
        sampled, cache = self.sample(indices)
        made = self.decoded(sampled)
        self.check(indices, made)
        del made[FINITE]
        return made, cache

    @torch.inference_mode()
    def sample(self, indices: range) -> tuple[dict[str, Tensor], StepCache | None]:
        """Latents and labels of the samples, whether they were finite after each step, and the cache after the last."""
        cache, around = self.batch_start(len(indices))
        labels, steps = self.trajectory(indices, cache, around)
        finite = []
        for x in steps:
            finite.append(torch.isfinite(x).all())  # looked at by `check`: no waiting for a GPU before
        if around is None:
            self.capture(indices, cache, x)
        return {"latents": x, "labels": labels, FINITE: torch.stack(finite)}, cache

    @torch.inference_mode()
    def decoded(self, sampled: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same with uint8 images."""
        images = self.decode(sampled["latents"])
        finite = torch.isfinite(images).all()  # as numbers of 8 bits they would look like an image
        return sampled | {"images": to_uint8(images), FINITE: torch.cat([sampled[FINITE], finite[None]])}

    def check(self, indices: range, made: dict[str, Tensor]) -> None:
        *steps, images = made[FINITE].tolist()
        check_finite(steps, indices, self.method, self.divergence_hint)
        if not images:
            raise GocError(
                f"samples {indices.start}..{indices.stop - 1}: their decoded images are not finite, although their "
                "latents are: must have another vae"
            )

    def cost(self, cache: StepCache | None) -> dict[str, Any]:
        """What a batch really cost: what was not computed, MACs per image, and what its cache held at most.

        cache_ratio is the share of features that were not computed: cached, or of a half that was not evaluated.
        """
        if isinstance(cache, HalfCaches):
            return self.cost_of_halves(cache)
        return self.cost_of(cache, self.evaluations, self.cfg_scale != 1.0)

    def cost_of(self, cache: StepCache | None, evaluations: int, guided: bool) -> dict[str, Any]:
        """The same of so many evaluations."""
        nothing = torch.zeros(evaluations, 1, 1, dtype=torch.bool)
        if not isinstance(cache, ScheduledCache | SampleCaches):
            macs = image_macs(self.model, nothing, guided)
            return {"cache_ratio": 0.0, "macs_per_image": macs, "peak_cache_tensors": 0, "peak_cache_bytes": 0}
        masks = [cache.mask] if isinstance(cache, ScheduledCache) else list(cache.mask)
        skipped = 1 - cache.first_blocks / self.model.depth  # of a cached step: the first blocks may run all the same
        beside = self.beside(cache, masks)
        ratios = [skipped * cache_ratio_of(mask) - share for mask, (_, share) in zip(masks, beside, strict=True)]
        cost: dict[str, Any] = {
            "cache_ratio": sum(ratios) / len(ratios),
            "peak_cache_tensors": cache.peak_cache_tensors,
            "peak_cache_bytes": cache.peak_cache_bytes,
        }
        if isinstance(cache, SampleCaches):
            cost["cache_ratios"] = ratios
        if isinstance(cache, SampleCaches) and cache.of_network:
            cost["macs_per_image"] = image_macs(self.model, nothing, guided) * (1 - cost["cache_ratio"])
        else:
            of_each = [
                image_macs(self.model, mask, guided, cache.site, cache.first_blocks, macs)
                for mask, (macs, _) in zip(masks, beside, strict=True)
            ]
            cost["macs_per_image"] = sum(of_each) / len(of_each)
        return cost

    def beside(self, cache: ScheduledCache | SampleCaches, masks: Sequence[Tensor]) -> list[tuple[int, float]]:
        """What was computed where each mask says cached: MACs of one row, and its share of the mask's cells."""
        model = self.model
        if isinstance(cache, AdaptiveCache | SampleCaches):
            blocks = [model.depth * len(mask) for mask in masks]
            return [
                (looking_macs(model, looked), looked.last_blocks / of)
                for looked, of in zip(cache.looked, blocks, strict=True)
            ]
        partly = partly_of(cache.selection, cache.mask, sorted(cache.skipped), model)
        return [(partly.macs(model, cache.mask), partly.share(model, cache.mask))]

    def cost_of_halves(self, caches: HalfCaches) -> dict[str, Any]:
        """The same where each half has a cache of its own: an evaluation of both halves counts as one."""
        each = [(evaluations, self.cost_of(cache, evaluations, guided=False)) for cache, evaluations in caches.each]

        def not_computed(ratios: Sequence[float]) -> float:
            computed = sum(count * (1 - ratio) for (count, _), ratio in zip(each, ratios, strict=True))
            return 1 - computed / (2 * self.evaluations)

        cost: dict[str, Any] = {
            "cache_ratio": not_computed([half["cache_ratio"] for _, half in each]),
            "macs_per_image": sum(half["macs_per_image"] for _, half in each),
        }
        for held in ("peak_cache_tensors", "peak_cache_bytes"):
            cost[held] = getattr(caches, held) + sum(half[held] for _, half in each)
        if all("cache_ratios" in half for _, half in each):
            samples = zip(*(half["cache_ratios"] for _, half in each), strict=True)
            cost["cache_ratios"] = [not_computed(ratios) for ratios in samples]
        return cost

    @torch.inference_mode()
    def step_seconds(self, samples: int) -> list[float]:
        _, trajectory = self.trajectory(range(samples), *self.batch_start(samples))
        seconds = []
        for _ in range(self.solver.steps):
            synchronize(self.device)
            start = time.perf_counter()
            next(trajectory)
            synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return seconds
