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
    cached_places: int = 0
    macs: float = 0.0  # of all calls, had none been cached; 0 as long as they are not known
    saved_macs: float = 0.0
    tensors_held: int = 0
    bytes_held: int = 0

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

    @classmethod
    def of(cls, method: str, record: Record, others: tuple[str, ...] = ()) -> "Summary":
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
        )

    def __str__(self) -> str:
        if not self.pipeline_calls:
            return f"{self.method}: the pipeline was not called yet"
        calls = ", ".join(f"{self.calls[kind]} {kind}" for kind in KINDS)
        lines = [
            f"{self.method}: {self.steps} steps; of the transformer's {sum(self.calls.values())} calls {calls}",
            f"cached cells: {self.cached_share:.1%}",
            "MACs saved: " + ("not counted" if self.macs_saved is None else f"{self.macs_saved:.1%}"),
        ]
        if self.full_seconds is not None and self.cached_seconds is not None:
            share = self.cached_seconds / self.full_seconds
            lines.append(
                f"a full step {1000 * self.full_seconds:.3g} ms, a cached one {1000 * self.cached_seconds:.3g} ms "
                f"({share:.1%})"
            )
        lines.append(f"tensors held: {self.tensors_held}, {self.bytes_held / MIB:.1f} MiB")
        if self.others:
            lines.append(f"blocks computed in every step: {', '.join(self.others)}")
        return "\n".join(lines)
