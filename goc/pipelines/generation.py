"""From a seed and a prompt to an image by a pipeline of diffusers: what `goc.sampling.generation` is for a denoiser."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from goc.caching.cache import AdaptiveCache, StepCache
from goc.models.network import Site
from goc.models.parts import reason
from goc.pipelines.enable import attach, disable_cache, transformers_of
from goc.pipelines.folder import arguments_of_call
from goc.pipelines.operations import Key
from goc.pipelines.session import PipelineCache, PipelineError, Run
from goc.pipelines.structure import layout_of
from goc.pipelines.tokens import PlacesCache
from goc.pipelines.watch import Watch
from goc.sampling.frames import FRAMES, side_by_side
from goc.sampling.generation import MadeAtOnce, check_finite, sample_generator


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8, same shape, by PIPELINES_UINT8_RULE of goc/models/decoder.py."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Probe:
    """What a call of a pipeline is like.

    run: its steps and structure. macs_per_step: of one sample, with guidance. rows: of the transformer's input in a
    step for one sample: two with guidance.
    """

    run: Run
    macs_per_step: float
    rows: int


@dataclass(frozen=True)
class PipelineCalls:
    """Calls of one pipeline: sample i has prompt i, counted round, and a random generator of its own.

    steps: num_inference_steps. cfg_scale: guidance_scale, where the call has it. more: other arguments of a call.
    """

    pipe: Any
    prompts: Sequence[str]
    steps: int
    cfg_scale: float
    more: Mapping[str, Any]
    device: torch.device
    counted: dict[str, dict[Key, float]] = field(default_factory=dict)  # what places cost, by site, if compiled

    def compile_blocks(self, site: Site) -> None:
        """Compile the transformers' blocks from now on; what their places cost is counted before."""
        self.counted[site] = self._first_step(site)[0].transformers[0].operations.counted
        for transformer in transformers_of(self.pipe).values():
            for members in layout_of(transformer, site).lists.values():
                for block in members:
                    block.compile()

    def common(self) -> dict[str, Any]:
        """The arguments that all calls have."""
        arguments = {**self.more, "num_inference_steps": self.steps}
        if "guidance_scale" in arguments_of_call(type(self.pipe)):
            arguments["guidance_scale"] = self.cfg_scale
        return arguments

    def sample(self, indices: range, seed: int) -> Tensor:
        """Images in [0, 1] of the samples with these indices, float32 [n, 3, H, W] on the CPU; videos [n, F, ...]."""
        arguments = {
            **self.common(),
            "prompt": [self.prompts[index % len(self.prompts)] for index in indices],
            "generator": [sample_generator(seed, index) for index in indices],
            "output_type": "np",
            "return_dict": False,
        }
        try:
            images = self.pipe(**arguments)[0]
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            if "memory" in str(error):  # is not the fault of the call, nor of parts that do not fit each other
                raise
            raise PipelineError(f"{type(self.pipe).__name__}: refuses its call ({reason(error)})") from error
        return torch.as_tensor(np.asarray(images)).float().movedim(-1, -3).contiguous()

    @cached_property
    def probe(self) -> Probe:
        """What a call is like, from the first step of one sample."""
        cache, watch, run = self._first_step("branch")
        return Probe(run, cache.record.macs, watch.rows)

    def _first_step(self, site: Site) -> tuple[PipelineCache, Watch, Run]:
        """A call of one sample, without a cache, that ends after its first step."""
        runs: list[Run] = []

        def first_step(run: Run) -> StepCache:
            runs.append(run)
            return StepCache(site)

        watch = Watch(self.pipe, self.device, last=0)
        cache = attach(self.pipe, first_step, site=site)
        try:
            with watch.watching():
                self.sample(range(1), seed=0)
        finally:
            disable_cache(self.pipe)
        if not runs:
            raise PipelineError(f"{type(self.pipe).__name__}: a call of it did not call its transformer")
        return cache, watch, runs[0]

    def run(self, site: Site) -> Run:
        """What plans of a call depend on, at a site."""
        run = self.probe.run
        layout, *others = [layout_of(transformer, site) for transformer in transformers_of(self.pipe).values()]
        if any(other.places != layout.places for other in others):
            raise PipelineError(f"{type(self.pipe).__name__}: its two transformers must be built alike for run.py")
        return replace(run, layout=layout)


@dataclass(frozen=True)
class PipelineGeneration(MadeAtOnce):
    """Everything that decides what sample i looks like, apart from i; a `goc.sampling.generation.SampleSource`.

    new_cache makes a cache with the masks of a plan for the calls' run; None computes everything.
    """

    calls: PipelineCalls
    seed: int
    new_cache: Callable[[], StepCache] | None = None
    method: str = "none"  # for messages
    divergence_hint: str = ""

    @property
    def device(self) -> torch.device:
        return self.calls.device

    @property
    def evaluations(self) -> int:
        return self.calls.probe.run.steps

    @property
    def macs_per_forward(self) -> float:
        return self.calls.probe.macs_per_step / self.calls.probe.rows

    @contextlib.contextmanager
    def cached(self, counts: bool = True) -> Iterator[PipelineCache | None]:
        """Inside, the pipeline has the cache, if there is one; counts: whether it counts operations."""
        new_cache = self.new_cache
        if new_cache is None:
            yield None
            return
        made = new_cache()
        cache = attach(
            self.calls.pipe, lambda run: new_cache(), site=made.site, method=self.method,
            selects=isinstance(made, PlacesCache),
        )  # fmt: skip
        for cached in cache.transformers:
            cached.operations.wanted = counts
            cached.operations.assumed = self.calls.counted.get(cached.layout.site, {})
        try:
            yield cache
        finally:
            disable_cache(self.calls.pipe)

    def calls_for(self, indices: range) -> list[range]:
        """The samples of each call: all, or one where its cache decides, as not all calls come apart.

        Also where a picture is given, as a list of them means another thing to each pipeline.
        """
        cache = self.new_cache() if self.new_cache else None
        decides = isinstance(cache, AdaptiveCache) and cache.per_sample
        one_by_one = decides or any(isinstance(value, Image.Image) for value in self.calls.more.values())
        return [range(i, i + 1) for i in indices] if one_by_one else [indices]

    def make(self, indices: range) -> tuple[dict[str, Tensor], list[PipelineCache]]:
        """The same as `together`, in one call or in one for each sample, with the caches of the calls."""
        made = [self.together(call) for call in self.calls_for(indices)]
        samples = {name: torch.cat([tensors[name] for tensors, _ in made]) for name in made[0][0]}
        return samples, [cache for _, cache in made if cache is not None]

    def together(self, indices: range) -> tuple[dict[str, Tensor], PipelineCache | None]:
        """Samples [n]: uint8 images, their prompts' numbers as labels, and as latents what the last step gave.

        Where the scheduler's last step has no value for each sample, the images in [0, 1] are the latents. Also the
        cache with its record of these samples. Raises GocError naming the step when values stop being finite.
        """
        watch = Watch(self.calls.pipe, self.device)
        with self.cached() as cache, watch.watching():
            images = self.calls.sample(indices, self.seed)
        finite = torch.stack(watch.finite).tolist() if watch.finite else []
        check_finite([*finite, bool(images.isfinite().all())], indices, self.method, self.divergence_hint)
        latents = watch.latents
        if latents is None or len(latents) % len(indices):
            latents = images
        labels = torch.tensor([index % len(self.calls.prompts) for index in indices])
        # with guidance some pipelines step both halves, which are the same
        made = {"latents": latents[: len(indices)].float(), "labels": labels, "images": to_uint8(images)}
        if images.ndim > 4:
            made |= {"images": side_by_side(made["images"]), FRAMES: torch.full_like(labels, images.shape[1])}
        return made, cache

    def cost(self, made_with: Sequence[PipelineCache] | None) -> dict[str, Any]:
        """What samples really cost, by their calls' records; MACs are the transformer's, as torch counts them."""
        macs = self.calls.probe.macs_per_step * self.evaluations
        if not made_with:
            return {"cache_ratio": 0.0, "macs_per_image": macs, "peak_cache_tensors": 0, "peak_cache_bytes": 0}
        records = [cache.record for cache in made_with]
        ratios = [record.cached_places / record.places for record in records]
        shares = [1 - record.saved_macs / record.macs for record in records]
        return {
            "cache_ratio": sum(ratios) / len(ratios),
            "macs_per_image": macs * sum(shares) / len(shares),
            "peak_cache_tensors": max(record.tensors_held for record in records),
            "peak_cache_bytes": max(record.bytes_held for record in records),
            **({"cache_ratios": ratios} if len(ratios) > 1 else {}),
        }

    def step_seconds(self, samples: int) -> list[float]:
        seconds = []
        for call in self.calls_for(range(samples)):
            watch = Watch(self.calls.pipe, self.device, timed=True, last=self.evaluations - 1)
            with self.cached(counts=False), watch.watching():
                self.calls.sample(call, self.seed)
            seconds.append(watch.seconds)
        return [sum(of_calls) for of_calls in zip(*seconds, strict=True)]
