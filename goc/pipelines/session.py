"""One pipeline's cache while it works: its calls, the streams of transformer calls in them, and their state."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from goc.caching.cache import ScheduledCache, StepCache
from goc.caching.predictor import evaluate
from goc.pipelines.operations import WHOLE, Key, Operations
from goc.pipelines.steps import StepCounter
from goc.pipelines.structure import Layout, StructureError
from goc.pipelines.summary import Record, Stopwatch, Summary
from goc.system.errors import GocError

Inputs = tuple[Tensor | None, ...]  # hidden states, and the encoder's if the block has them


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


NewCache = Callable[[Run], StepCache]


@dataclass
class Span:
    """Blocks that run: where they began, and what came out of them so far."""

    place: int
    inputs: Inputs
    outputs: Inputs = ()


@dataclass
class Stream:
    """The calls of the transformer that share a cache, one in each step: conditional ones, say.

    cache: masks and features of one batch. fresh: whether nothing is kept yet, so that all is computed.
    """

    cache: StepCache
    last: int = -1
    fresh: bool = True
    pending: list[tuple[int, int, Tensor]] = field(default_factory=list)  # computed, and perhaps still in use
    pending_block: int = -1
    forms: dict[int, list[bool] | None] = field(default_factory=dict)  # of a place: which of a tuple's are tensors
    formats: dict[tuple[int, int], torch.dtype] = field(default_factory=dict)
    kept: dict[int, set[int]] = field(default_factory=dict)  # outputs of the places that spans begin at
    span: Span | None = None
    given: Inputs = ()  # to the block that is computed now
    decided: bool = False  # whether the cache was asked if it skips this step
    skipping: bool = False  # whether the block before was skipped, and so are those of its span after it

    def begin(self, step: int) -> None:
        """A call of the transformer in this step begins."""
        self.fresh = self.last < 0
        self.last, self.skipping, self.decided = step, False, False
        self.cache.begin_step(step)

    def decide(self, signal: Callable[[], Tensor]) -> None:
        """Ask an adaptive cache once in a call; signal() is the first block's modulated input."""
        if not self.decided:
            self.decided = True
            self.cache.decide(signal)

    def value(self, place: int, output: int) -> Tensor | None:
        """What stands in for a feature that is cached, one tensor; None: compute it."""
        terms = None if self.fresh else self.cache.lookup(place, output)
        return None if terms is None else evaluate(terms).to(self.formats[place, output])

    def give(self, place: int, output: int, feature: Tensor) -> None:
        """Hand a computed feature over, that nobody else uses any more."""
        self.formats[place, output] = feature.dtype
        self.cache.store(place, output, feature)

    def settle(self) -> None:
        """Hand over what was computed; caches change features in place, so their block must have used them."""
        for place, output, feature in self.pending:
            self.give(place, output, feature)
        self.pending.clear()

    def close(self, layout: Layout) -> None:
        """Hand over what the blocks of the open span added."""
        if self.span is None:
            return
        span, self.span = self.span, None
        self.kept[span.place] = set()
        for output, (before, after) in enumerate(zip(span.inputs, span.outputs, strict=True)):
            if before is None or after is None:
                continue
            if before.ndim != after.ndim or any(
                n not in (1, m) for n, m in zip(before.shape, after.shape, strict=True)
            ):
                raise StructureError(
                    f"{layout.places[span.place].name}: its blocks turn {tuple(before.shape)} into "
                    f"{tuple(after.shape)}, where nothing can be added; use site='branch', or blocks=[...] without it"
                )
            self.kept[span.place].add(output)
            self.give(span.place, output, after - before)

    def end(self, layout: Layout) -> None:
        """The call of the transformer is over."""
        self.close(layout)
        self.settle()


class PipelineCache:
    """A cache in a pipeline, as `enable_cache` gives it: ask it for a `summary`.

    Args:
        pipe: the pipeline, with `scheduler.timesteps`.
        layout: the places in its transformer that are cached.
        new_cache: makes an empty cache, whose masks have the shape `layout.shape(steps)`, for each stream of a call.
        method: its name in the summary.
    """

    def __init__(self, pipe: Any, layout: Layout, new_cache: NewCache, method: str) -> None:
        self.pipe, self.layout, self.new_cache, self.method = pipe, layout, new_cache, method
        self.transformer: nn.Module
        self.record = Record()
        self.active = False
        self.counter: StepCounter | None = None
        self.source: Any = None  # the scheduler's timesteps, and as numbers
        self.timesteps: list[float] = []
        self.streams: dict[str, Stream] = {}
        self.stream: Stream | None = None  # of the transformer's call under way
        self.computed = self.cached = 0  # places, in that call
        self.saved = 0.0  # operations, in that call
        self.operations = Operations([block for members in layout.lists.values() for block in members])
        self.watch: Stopwatch

    def summary(self) -> Summary:
        """What it did so far, over all calls of the pipeline."""
        return Summary.of(self.method, self.record)

    def tensors_held(self) -> int:
        """Tensors that are kept now; none between two calls of the pipeline."""
        return len(self._held())

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """One call of the pipeline: inside, its transformer is cached; at its end, nothing is kept.

        A loop of your own around the pipeline's transformer and scheduler is to run inside.
        """
        if self.active:
            raise PipelineError("a pipeline with a cache is called inside of its own call")
        self.active = True
        self.record.pipeline_calls += 1
        try:
            yield
        finally:
            self.active = False
            self.forget()

    def forget(self) -> None:
        """Drop all state of the pipeline's call."""
        self.streams.clear()
        self.stream = self.counter = self.source = None
        self.operations.abandon()

    def begin(self, timestep: float, name: str | None, shapes: Hashable, device: torch.device) -> None:
        """The transformer is called; name: of the cache context, shapes: of what it is given."""
        if self.counter is None or self._source() is not self.source:  # a call may go through several samplings
            self.forget()
            self.source = self._source()
            self.timesteps = self._timesteps()
            self.counter = StepCounter(self.timesteps)
            self.record.steps = len(self.timesteps)
        step, stream_name = self.counter.locate(timestep, name)
        self.computed = self.cached = 0
        self.saved = 0.0
        if step >= len(self.timesteps):  # more than the scheduler has: not a step of the sampler
            return
        stream = self.streams.get(stream_name)
        if stream is None or step != stream.last + 1:  # with a gap, what was kept is too old
            run = Run(self.layout, self.pipe.scheduler, self.timesteps, stream_name, device)
            stream = self.streams[stream_name] = Stream(self.new_cache(run))
        stream.begin(step)
        self.stream = stream
        self.operations.begin(shapes, computes_all=stream.fresh)
        self.watch = Stopwatch(device)

    def end(self) -> None:
        """The transformer's call is over."""
        stream = self.stream
        if stream is None:
            return
        stream.end(self.layout)
        self.watch.stop()
        self.operations.end()
        record, kind = self.record, "mixed" if self.computed and self.cached else "cached" if self.cached else "full"
        record.calls[kind] += 1
        if not stream.fresh:
            record.times[kind].append(self.watch)
        record.places += self.computed + self.cached
        record.cached_places += self.cached
        record.macs += self.operations.costs.get(WHOLE, 0.0)
        record.saved_macs += self.saved
        held = self._held()
        record.tensors_held = max(record.tensors_held, len(held))
        record.bytes_held = max(record.bytes_held, sum(tensor.nbytes for tensor in held))
        if stream.last == len(self.timesteps) - 1:
            stream.cache = StepCache(self.layout.site)  # nothing comes after it
        self.stream = None

    def _held(self) -> list[Tensor]:
        caches = [stream.cache for stream in self.streams.values()]
        return [t for cache in caches if isinstance(cache, ScheduledCache) for t in cache.predictor.held()]

    def _source(self) -> Any:
        """The scheduler's timesteps, which are another object for each sampling."""
        return getattr(getattr(self.pipe, "scheduler", None), "timesteps", None)

    def _timesteps(self) -> list[float]:
        if self.source is None or not len(self.source):
            raise PipelineError(f"{type(self.pipe).__name__}: its scheduler has no timesteps, which steps are found by")
        numbers = [float(t) for t in self.source]
        used = getattr(self.pipe, "_num_timesteps", None)  # fewer where an image is the start
        return numbers[-used:] if isinstance(used, int) and 0 < used <= len(numbers) else numbers

    def skipped(self, key: Key) -> None:
        """A module was cached."""
        self.cached += 1
        self.saved += self.operations.costs.get(key, 0.0)

    def done(self, key: Key) -> None:
        """A module was computed."""
        self.computed += 1
        self.operations.end_module(key)
