"""Times every sampling step of contenders that take turns, and makes the table of scripts/benchmark.py steps."""

import contextlib
import gc
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from goc.check.contenders import Contender, Entry, Load
from goc.check.peers import reason
from goc.system.device import synchronize

SCHEDULE_STEPS = 20  # images/s and speed-ups are those of DDIM-20
MIB = 2**20
COLUMNS = [
    *("method", "cached_share", "full_min_s", "full_median_s", "cached_min_s", "cached_median_s"),
    *("cached_of_full_min", "cached_of_full_median", "full_of_baseline", "images_per_s", "speedup", "ideal"),
    *("tensors_held", "held_mib", "peak_mib", "cached_steps_timed", "graphs", "recompiled", "note"),
]


@dataclass
class Measured:
    """What is known of one contender; times in seconds, sizes in bytes."""

    full: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    tensors_held: int = 0
    bytes_held: int = 0
    peak_bytes: int = 0
    graphs: int = 0  # compiled in the trajectory that is not timed
    recompiled: int = 0  # compiled in those that are
    note: str = ""


def graphs_compiled() -> int:
    """How many graphs torch.compile has made in this process."""
    return counters["stats"]["unique_graphs"]


@contextlib.contextmanager
def only_new_objects() -> Iterator[None]:
    """Inside, gc.get_objects() lists only what was made inside."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def features_alive(tokens: Sequence[int]) -> dict[int, int]:
    """Storages of tensors [N, one of tokens, any] made inside `only_new_objects` and not gone: address -> bytes."""
    tensors = (item for item in gc.get_objects() if type(item) is Tensor)
    storages = (item.untyped_storage() for item in tensors if item.ndim == 3 and item.shape[1] in tokens)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def peak_of_trace(trace: dict[str, Any]) -> int:
    """Most bytes allocated at once, above those at its start, in a trace of torch's profiler."""
    events = [event for event in trace["traceEvents"] if event["name"] == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes allocated at once in a call, above what was there before; exact.

    That of torch's allocator, on a CPU by its profiler: resident memory would count what the allocator kept.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    return peak_of_trace(trace_of(profiler))


def trace_of(profiler: profile) -> dict[str, Any]:
    """What a profiler saw, as Chrome's trace format has it; times in microseconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))


def walk(contender: Contender, workload: Load, measured: Measured) -> None:
    """One trajectory, not timed: how many tensors are held after a step, and whether all values are finite."""
    contender.drop()
    with only_new_objects():
        for x in contender.start():
            held = features_alive(workload.tokens)
            measured.tensors_held = max(measured.tensors_held, len(held))
            measured.bytes_held = max(measured.bytes_held, sum(held.values()))
            if not x.isfinite().all():
                raise FloatingPointError("values are not finite")
    contender.drop()


def measure_memory(contender: Contender, workload: Load, measured: Measured) -> None:
    """The first trajectory, which also warms up: tensors held, and peak memory above what was there before."""
    if workload.compiled or workload.device.type == "cuda":
        before = graphs_compiled()
        for _ in contender.start():  # compiling and tuning would count otherwise
            pass
        measured.graphs = graphs_compiled() - before
        contender.drop()
    measured.peak_bytes = peak_bytes(lambda: walk(contender, workload, measured), workload.device)


def time_steps(contender: Contender, workload: Load, measured: Measured) -> None:
    """One trajectory, each step timed from an idle device to an idle device."""
    graphs = graphs_compiled()
    trajectory = contender.start()
    for _ in range(workload.steps):
        synchronize(workload.device)
        start = time.perf_counter()
        next(trajectory)
        synchronize(workload.device)
        elapsed = time.perf_counter() - start
        (measured.cached if contender.was_cached() else measured.full).append(elapsed)
    contender.drop()
    measured.recompiled += graphs_compiled() - graphs


@torch.inference_mode()
def measure(contenders: Sequence[Contender], workload: Load, repeats: int) -> dict[str, Measured]:
    """Measure all contenders in turns, one trajectory each.

    A peer that fails, and a contender that there is not memory enough for, keeps the reason in its note.
    """
    results: dict[str, Measured] = defaultdict(Measured)
    for turn in (measure_memory, *[time_steps] * repeats):
        for contender in contenders:
            if results[contender.name].note:
                continue
            try:
                turn(contender, workload, results[contender.name])
            except Exception as error:
                if not contender.foreign and not isinstance(error, torch.OutOfMemoryError):
                    raise
                contender.drop()
                torch.cuda.empty_cache()
                results[contender.name] = Measured(note=reason(error))
    return results


def rows(contenders: Sequence[Contender], results: dict[str, Measured], workload: Load) -> Iterator[dict[str, Any]]:
    """The table's rows; ratios and speed-ups are of medians unless their name says otherwise."""
    for contender in contenders:
        measured, base = results[contender.name], results[contender.baseline]
        if measured.note:
            yield {"method": contender.name, "note": measured.note}
            continue
        full, baseline = median(measured.full), median(base.full or measured.full)
        cached = median(measured.cached) if measured.cached else None
        count = len(contender.cached_steps(SCHEDULE_STEPS))
        share = count / SCHEDULE_STEPS
        seconds = (SCHEDULE_STEPS - count) * full + count * (cached or 0.0)
        yield {
            "method": contender.name,
            "cached_share": share,
            "full_min_s": min(measured.full),
            "full_median_s": full,
            "cached_min_s": min(measured.cached, default=None),
            "cached_median_s": cached,
            "cached_of_full_min": min(measured.cached) / min(measured.full) if measured.cached else None,
            "cached_of_full_median": cached / full if cached is not None else None,
            "full_of_baseline": full / baseline,
            "images_per_s": workload.batch / seconds,
            "speedup": SCHEDULE_STEPS * baseline / seconds,
            "ideal": 1 / (1 - share),
            "tensors_held": measured.tensors_held,
            "held_mib": measured.bytes_held / MIB,
            "peak_mib": measured.peak_bytes / MIB,
            "cached_steps_timed": len(measured.cached),
            "graphs": measured.graphs,
            "recompiled": measured.recompiled,
            "note": "",
        }


def name_of(entry: Entry) -> str:
    """The name of an entry's row."""
    return entry.name if isinstance(entry, Contender) else entry[0]


def table(entries: Sequence[Entry], workload: Load, repeats: int) -> pd.DataFrame:
    """Measure, and one row for every entry in COLUMNS; an entry (name, reason) has only these."""
    contenders = [entry for entry in entries if isinstance(entry, Contender)]
    results = measure(contenders, workload, repeats)
    made = {row["method"]: row for row in rows(contenders, results, workload)}
    missing = {entry[0]: {"method": entry[0], "note": entry[1]} for entry in entries if isinstance(entry, tuple)}
    return pd.DataFrame([{**made, **missing}[name_of(entry)] for entry in entries], columns=COLUMNS)
