"""What a cache did in a pipeline: steps, cached cells, operations saved, time of a step, tensors held."""

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from statistics import median

import torch

MIB = 2**20
TIMED = 1000  # calls of the transformer, the last ones of each kind, whose times are kept
KINDS = ("full", "mixed", "cached")  # of a call of the transformer: no place was cached, some were, all were


class Stopwatch:
    """Times work on a device: a clock's on a CPU, the GPU's own events on a GPU, which are read when asked."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.first = self._now()
        self.last = self.first

    def _now(self) -> "float | torch.cuda.Event":
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self) -> None:
        """The work is under way; on a GPU it need not have ended."""
        self.last = self._now()

    def seconds(self) -> float:
        """From the start to the stop; waits for the GPU."""
        if isinstance(self.first, float):
            assert isinstance(self.last, float)
            return self.last - self.first
        assert isinstance(self.last, torch.cuda.Event)
        self.last.synchronize()
        return self.first.elapsed_time(self.last) / 1000


@dataclass
class Record:
    """What is counted while a cache works. A call is one of the transformer; guidance may make several in a step."""

    pipeline_calls: int = 0
    passes: int = 0  # of the transformer
    steps: int = 0  # of the last pipeline call
    calls: Counter[str] = field(default_factory=Counter)
    times: dict[str, deque[Stopwatch]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=TIMED)))
    places: int = 0  # places passed, over all calls
    cached_places: float = 0  # a token that was computed after all is its share of one
    selections: int = 0  # cached feed-forwards whose tokens can be selected, and the sum of the shares that were
    shares_of_tokens: float = 0.0
    macs: float = 0.0  # of all calls, had none been cached; 0 as long as they are not known
    saved_macs: float = 0.0
    tensors_held: int = 0
    bytes_held: int = 0
    # of each sample of the call under way, cached places and all, and of samples before the share of both
    samples: dict[int, tuple[float, int]] = field(default_factory=dict)
    shares: deque[float] = field(default_factory=lambda: deque(maxlen=TIMED))
    together: str | None = None  # why samples were decided together, if they were not to be

    def add_places(self, sample: int | None, places: int, cached: float) -> None:
        """A call of the transformer passed places, for one sample or for all."""
        self.places += places
        self.cached_places += cached
        if sample is not None:
            before = self.samples.get(sample, (0, 0))
            self.samples[sample] = before[0] + cached, before[1] + places

    def end_call(self) -> None:
        """A pipeline's call is over."""
        self.shares.extend(cached / places for cached, places in self.samples.values() if places)
        self.samples.clear()

    def seconds(self, kind: str) -> float | None:
        """Median time of a call of a kind; None if there was none."""
        return median(watch.seconds() for watch in self.times[kind]) if self.times[kind] else None


@dataclass(frozen=True)
class Summary:
    """A cache's record in numbers; print it for lines. Times are medians in seconds for one call of the transformer.

    The first step of a pipeline call is not among the times: it warms up, and operations may be counted in it.
    """

    method: str
    pipeline_calls: int
    steps: int
    calls: dict[str, int]
    cached_share: float
    macs_saved: float | None
    full_seconds: float | None
    cached_seconds: float | None
    tensors_held: int
    bytes_held: int
    others: tuple[str, ...] = ()
    cached_shares: tuple[float, ...] = ()  # of samples that were decided each by itself
    together: str | None = None  # why they were not
    tokens_computed: float | None = None  # of cached feed-forwards whose tokens can be selected: their share
    predicted_whole: tuple[str, ...] = ()  # modules whose tokens cannot, with the reason

    @classmethod
    def of(
        cls, method: str, record: Record, others: tuple[str, ...] = (), predicted_whole: tuple[str, ...] = ()
    ) -> "Summary":
        """The summary of a record; others: lists of blocks that are computed in every step."""
        return cls(
            method=method,
            pipeline_calls=record.pipeline_calls,
            steps=record.steps,
            calls={kind: record.calls[kind] for kind in KINDS},
            cached_share=record.cached_places / record.places if record.places else 0.0,
            macs_saved=record.saved_macs / record.macs if record.macs else None,
            full_seconds=record.seconds("full"),
            cached_seconds=record.seconds("cached"),
            tensors_held=record.tensors_held,
            bytes_held=record.bytes_held,
            others=others,
            cached_shares=tuple(record.shares),
            together=record.together,
            tokens_computed=record.shares_of_tokens / record.selections if record.selections else None,
            predicted_whole=predicted_whole,
        )

    def __str__(self) -> str:
        if not self.pipeline_calls:
            return f"{self.method}: the pipeline was not called yet"
        calls = ", ".join(f"{self.calls[kind]} {kind}" for kind in KINDS)
        lines = [
            f"{self.method}: {self.steps} steps; of the transformer's {sum(self.calls.values())} calls {calls}",
            f"cached cells: {self.cached_share:.1%}" + self._spread(),
            "MACs saved: " + ("not counted" if self.macs_saved is None else f"{self.macs_saved:.1%}"),
        ]
        if self.full_seconds is not None and self.cached_seconds is not None:
            share = self.cached_seconds / self.full_seconds
            lines.append(
                f"a full step {1000 * self.full_seconds:.3g} ms, a cached one {1000 * self.cached_seconds:.3g} ms "
                f"({share:.1%})"
            )
        lines.append(f"tensors held: {self.tensors_held}, {self.bytes_held / MIB:.1f} MiB")
        if self.tokens_computed is not None:
            lines.append(f"tokens computed in cached feed-forwards: {self.tokens_computed:.1%}")
        if self.predicted_whole:
            lines.append(f"cached whole: {', '.join(self.predicted_whole)}")
        if self.others:
            lines.append(f"blocks computed in every step: {', '.join(self.others)}")
        if self.together is not None:
            lines.append(f"samples of a call were decided together: {self.together}")
        return "\n".join(lines)

    def _spread(self) -> str:
        """Over samples, in words."""
        shares = self.cached_shares
        return f", {min(shares):.1%} to {max(shares):.1%} over {len(shares)} samples" if len(shares) > 1 else ""
