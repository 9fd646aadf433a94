"""One pipeline's cache while it works: its calls, and the forward passes of its transformers in them."""

import contextlib
import logging
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from goc.caching.cache import ScheduledCache, StepCache
from goc.models.packed import Value
from goc.pipelines.forward_pass import ForwardPass, Stream
from goc.pipelines.hooks.replaced import replaced
from goc.pipelines.operations import Operations
from goc.pipelines.steps import StepCounter
from goc.pipelines.structure import Layout
from goc.pipelines.summary import Record, Stopwatch, Summary
from goc.pipelines.tokens import PlacesCache, predicted_whole
from goc.system.errors import GocError


class PipelineError(GocError):
    """A pipeline, or a call of it, that a cache cannot work in."""


@dataclass(frozen=True)
class Run:
    """One call of a pipeline: what a cache for it may depend on.

    timesteps: what the scheduler goes through, as numbers.
    """

    layout: Layout
    scheduler: Any
    timesteps: Sequence[float]
    stream: str  # which of a step's calls of the transformer: a cache context's name and a number
    device: torch.device

    @property
    def steps(self) -> int:
        """Of the sampler; the length of a schedule."""
        return len(self.timesteps)


TRANSFORMERS = ("transformer", "transformer_2")  # of a pipeline; of Wan 2.2 the first has the noisier steps
PREPARE = "prepare_latents"  # the method by which pipelines make their first latents
OF_DIFFUSERS = re.compile(r"^diffusers\.hooks\..*(cache|taylorseer|broadcast)")  # modules of its caches' hooks

NewCache = Callable[[Run], StepCache]

log = logging.getLogger(__name__)


@dataclass
class CachedTransformer:
    """One of a pipeline's transformers, with a cache in its modules.

    name: in the pipeline. context: the name that the pipeline gave the calls it makes now, if it gives any.
    copies: whether tensors are copied, as its modules change them in place. indivisible: why its output cannot be put
    together from its outputs for each sample, if it cannot. forward_pass: the one under way.
    """

    name: str
    transformer: nn.Module
    layout: Layout
    context: str | None = None
    copies: bool = False
    indivisible: str | None = None
    forward_pass: ForwardPass | None = None
    streams: dict[tuple[str, int | None], Stream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.operations = Operations(self.transformer)

    def forget(self) -> None:
        """Drop all state of the pipeline's call."""
        self.streams.clear()
        self.forward_pass = None
        self.operations.abandon()


class PipelineCache:
    """A cache in a pipeline, as `enable_cache` gives it: ask it for a `summary`.

    Args:
        pipe: the pipeline, with `scheduler.timesteps`.
        transformers: those that are cached; two take turns in a call, each with features of its own.
        new_cache: makes an empty cache, whose masks have the shape `layout.shape(steps)`, for each stream of a call.
        method: its name in the summary.
        per_sample: whether each sample of a call is to have caches of its own, which decide for it alone.
        selects: whether its caches select tokens of feed-forwards.
    """

    def __init__(
        self,
        pipe: Any,
        transformers: Sequence[CachedTransformer],
        new_cache: NewCache,
        method: str,
        per_sample: bool = False,
        selects: bool = False,
    ) -> None:
        self.pipe, self.transformers, self.new_cache, self.method = pipe, transformers, new_cache, method
        self.per_sample, self.selects = per_sample, selects
        self.generators: list[torch.Generator] = []  # of the rows of a call's first latents, for caches that draw
        self.samples: int | None = None  # of the pipeline's call, where it is known
        self.record = Record()
        self.active = False
        self.counter: StepCounter | None = None
        self.source: Any = None  # the scheduler's timesteps, and as numbers
        self.timesteps: list[float] = []
        self.watch: Stopwatch
        self.unhook: Callable[[], None]

    @property
    def layout(self) -> Layout:
        """Of the first transformer."""
        return self.transformers[0].layout

    def summary(self) -> Summary:
        """What it did so far, over all calls of the pipeline."""
        others = dict.fromkeys(name for cached in self.transformers for name in cached.layout.others)
        layouts = [cached.layout for cached in self.transformers if self.selects]
        whole = dict.fromkeys(name for layout in layouts for name in predicted_whole(layout))
        return Summary.of(self.method, self.record, tuple(others), tuple(whole))

    def tensors_held(self) -> int:
        """Tensors that are kept now; none between two calls of the pipeline."""
        return len(self._held())

    @contextlib.contextmanager
    def call(self, samples: int | None = None) -> Iterator[None]:
        """One call of the pipeline: inside, its transformer is cached; at its end, nothing is kept.

        A loop of your own around the pipeline's transformer and scheduler is to run inside. samples: how many it makes,
        where each is to be decided by itself; the pipeline's own `prepare_latents` says it as well.
        """
        if self.active:
            raise PipelineError("a pipeline with a cache is called inside of its own call")
        for cached in self.transformers:
            check_alone(self.pipe, cached.name, cached.transformer)
        self.active, self.samples = True, samples
        self.record.pipeline_calls += 1
        passes = self.record.passes
        try:
            with self._samples_seen():
                yield
            if self.record.passes == passes:
                names = " nor ".join(f"pipe.{cached.name}" for cached in self.transformers)
                raise PipelineError(f"{type(self.pipe).__name__}: its call did not call {names}, which has the cache")
        finally:
            self.active = False
            self.record.end_call()
            self.forget()

    def _samples_seen(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the latents that the pipeline prepares say how many samples there are."""

        def prepare(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            prepared = original(*args, **kwargs)
            self.samples = next((len(leaf) for leaf in tree_leaves(prepared) if isinstance(leaf, Tensor)), self.samples)
            return prepared

        looks = self.per_sample and hasattr(self.pipe, PREPARE)
        return replaced(self.pipe, PREPARE, prepare) if looks else contextlib.nullcontext()

    def forget(self) -> None:
        """Drop all state of the pipeline's call."""
        self.counter = self.source = None
        self.generators = []
        for cached in self.transformers:
            cached.forget()

    def locate(self, cached: CachedTransformer, timestep: float) -> tuple[int, str] | None:
        """The step of a transformer's call, and which of the step's calls it is; None: no step of the sampler."""
        if self.counter is None or self._source() is not self.source:  # a call may go through several samplings
            self.forget()
            self.source = self._source()
            self.timesteps = self._timesteps()
            self.counter = StepCounter(self.timesteps)
            self.record.steps = len(self.timesteps)
        step, name = self.counter.locate(timestep, cached.context)
        self.record.passes += 1
        return (step, name) if step < len(self.timesteps) else None

    def begin(
        self,
        cached: CachedTransformer,
        step: int,
        name: str,
        sample: int | None,
        shapes: Hashable,
        latents: Tensor,
    ) -> None:
        """A transformer is called, for one sample or for all.

        latents, shapes: the first tensor of what it is given, and the shapes of all.
        """
        stream = cached.streams.get((name, sample))
        # with a gap what was kept is too old, and of other shapes it is of no use
        if stream is None or step != stream.last + 1 or shapes != stream.shapes:
            stream = self._new_stream(cached, name, sample, shapes, latents.device)
        stream.last = step
        stream.cache.begin_step(step)
        cached.forward_pass = ForwardPass(stream, cached.layout, cached.operations, latents, cached.copies)
        cached.operations.begin(shapes, computes_all=cached.forward_pass.fresh)
        self.watch = Stopwatch(latents.device)

    def _new_stream(
        self, cached: CachedTransformer, name: str, sample: int | None, shapes: object, device: torch.device
    ) -> Stream:
        run = Run(cached.layout, self.pipe.scheduler, self.timesteps, name, device)
        stream = cached.streams[name, sample] = Stream(self.new_cache(run), shapes, name, sample)
        return stream

    def take_whole(self, cached: CachedTransformer, why: str) -> None:
        """A transformer's calls are not made for each sample any more, and what was kept of these is not used."""
        cached.indivisible = why
        cached.streams.clear()
        self.record.samples.clear()

    def decide_together(self, why: str) -> None:
        """Samples of a call are decided together where they were to be decided each by itself."""
        if self.record.together is None:
            log.warning(f"method={self.method}: decides for all samples of a call together: {why}")
        self.record.together = why

    def count_no_more(self, cached: CachedTransformer) -> bool:
        """A pass failed: if operations were counted in it, which not all can be, it begins anew without that."""
        if cached.forward_pass is None or cached.operations.counter is None:
            return False
        cached.operations.wanted = False
        self._begin_anew(cached, cached.forward_pass)
        return True

    def copy_from_now_on(self, cached: CachedTransformer) -> bool:
        """A pass failed because tensors were changed in place: it begins anew with copies."""
        if cached.forward_pass is None or cached.copies:
            return False
        cached.copies = True
        self._begin_anew(cached, cached.forward_pass)
        return True

    def _begin_anew(self, cached: CachedTransformer, failed: ForwardPass) -> None:
        counting = cached.operations.counter is not None
        cached.operations.abandon()
        old = failed.stream
        stream = self._new_stream(cached, old.name, old.sample, old.shapes, failed.latents.device)
        stream.last = old.last
        stream.cache.begin_step(stream.last)
        cached.forward_pass = ForwardPass(stream, cached.layout, cached.operations, failed.latents, cached.copies)
        if counting and cached.operations.wanted:
            cached.operations.begin(stream.shapes, computes_all=True)

    def end(self, cached: CachedTransformer) -> None:
        """A transformer's call is over."""
        done, cached.forward_pass = cached.forward_pass, None
        if done is None:
            return
        cached.operations.end()
        cache = done.stream.cache
        own = (
            cache.ended([done.streams[number] for number in sorted(done.streams)])
            if isinstance(cache, PlacesCache)
            else 0
        )
        self.watch.stop()
        record, kind = self.record, "mixed" if done.computed and done.cached else "cached" if done.cached else "full"
        record.calls[kind] += 1
        if not done.fresh:
            record.times[kind].append(self.watch)
        record.add_places(done.stream.sample, done.computed + done.cached, done.cached - sum(done.shares))
        record.shares_of_tokens += sum(done.shares)
        record.selections += len(done.shares)
        record.macs += cached.operations.whole
        record.saved_macs += done.saved - (own if cached.operations.whole else 0)
        held = self._held()
        record.tensors_held = max(record.tensors_held, len(held))
        record.bytes_held = max(record.bytes_held, sum(value.nbytes for value in held))
        if done.stream.last == len(self.timesteps) - 1:
            done.stream.cache = StepCache(cached.layout.site)  # nothing comes after it

    def _held(self) -> list[Value]:
        caches = [stream.cache for cached in self.transformers for stream in cached.streams.values()]
        return [tensor for cache in caches if isinstance(cache, ScheduledCache) for tensor in cache.held()]

    def _source(self) -> Any:
        """The scheduler's timesteps, which are another object for each sampling."""
        return getattr(getattr(self.pipe, "scheduler", None), "timesteps", None)

    def _timesteps(self) -> list[float]:
        if self.source is None or not len(self.source):
            raise PipelineError(f"{type(self.pipe).__name__}: its scheduler has no timesteps, which steps are found by")
        numbers = [float(t) for t in self.source]
        used = getattr(self.pipe, "_num_timesteps", None)  # fewer where an image is the start
        return numbers[-used:] if isinstance(used, int) and 0 < used <= len(numbers) else numbers


def diffusers_hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks that diffusers put on a module and on those inside of it."""
    for inner in module.modules():
        yield from getattr(getattr(inner, "_diffusers_hook", None), "hooks", {}).values()


def check_alone(pipe: Any, name: str, transformer: nn.Module) -> None:
    """Raise PipelineError if a pipeline's transformer is another one now, or has a cache of another library's."""
    kind = type(pipe).__name__
    now = getattr(pipe, name, None)
    if getattr(now, "_orig_mod", now) is not transformer:
        raise PipelineError(
            f"{kind}: pipe.{name} is not the transformer that has the cache; goc.disable_cache(pipe), then enable anew"
        )
    if any(OF_DIFFUSERS.search(type(hook).__module__) for hook in diffusers_hooks(transformer)):
        raise PipelineError(f"{kind}: pipe.{name} has a cache of diffusers; pipe.{name}.disable_cache() first")
    if vars(transformer).get("_is_cached"):  # of pipelines, cache-dit marks the class
        raise PipelineError(f"{kind}: pipe.{name} has a cache of cache-dit; cache_dit.disable_cache(pipe) first")
