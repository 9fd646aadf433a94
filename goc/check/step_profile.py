"""What full and cached steps consist of: attention, products, sums, the rest, and the time in which nothing runs."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from goc.check.contenders import Contender, Workload, project_contenders
from goc.check.random_model import random_model
from goc.check.roofline import H100_SXM, estimates
from goc.check.setting import Case, Outcome, Setting, Table
from goc.check.step_times import Measured, time_steps, trace_of
from goc.system.device import synchronize

OTHER = "other"
# kinds of work by the names of kernels, on a CPU of operators; the first that matches
KINDS = {
    "attention": re.compile(r"flash|fmha|sdpa?_|scaled_dot_product|attention", re.IGNORECASE),
    "sums": re.compile(r"sum_kernel|addcmul", re.IGNORECASE),
    "products": re.compile(
        r"gemm|gemv|nvjet|cutlass|cublas|xmma|wgmma|splitk|conv(?!ert)|aten::(addmm|mm|bmm|baddbmm|_?linear)",
        re.IGNORECASE,
    ),
}
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace's events
FULL, CACHED, STACK = "none", "goc 50 %", "goc stack 50 %"
# rows of a case: the contender, which of its steps, and the roofline's name of that step, without and with compiling
ROWS = (
    (FULL, "full", ("full", "full")),
    (CACHED, "full", ("full", "full")),
    (CACHED, "cached", ("cached", "cached, compiled")),
    (STACK, "cached", ("cached, stack", "cached, stack")),
)


def kind_of(name: str) -> str:
    """The kind of work of a kernel or operator."""
    return next((kind for kind, names in KINDS.items() if names.search(name)), OTHER)


def on_device(trace: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and milliseconds of what ran, from a trace: kernels of a GPU, or else operators without those they call."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X" and "cat" in event]
    kernels = [event for event in events if event["cat"] in ON_GPU]
    if kernels:
        for event in kernels:
            yield event["name"], event["dur"] / 1e3
        return
    operators = [event for event in events if event["cat"] == "cpu_op"]
    operators.sort(key=lambda event: (event["tid"], event["ts"], -event["dur"]))
    alone = [event["dur"] for event in operators]
    around: list[int] = []
    for index, event in enumerate(operators):
        while around and not _is_inside(event, operators[around[-1]]):
            around.pop()
        if around:
            alone[around[-1]] -= event["dur"]
        around.append(index)
    for event, microseconds in zip(operators, alone, strict=True):
        yield event["name"], microseconds / 1e3


def _is_inside(event: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(event["tid"] == other["tid"] and event["ts"] < other["ts"] + other["dur"])


def parts_of(trace: dict[str, Any], step_ms: float) -> dict[str, Any]:
    """Milliseconds of each kind in a step that takes `step_ms` unwatched, how much of it nothing runs, and launches."""
    took, launches = defaultdict[str, float](float), 0
    for name, milliseconds in on_device(trace):
        took[kind_of(name)] += milliseconds
        launches += 1
    kinds = {f"{kind}_ms": took[kind] for kind in (*KINDS, OTHER)}
    return {**kinds, "idle_ms": max(0.0, step_ms - sum(kinds.values())), "launches": launches}


def watched(contender: Contender, work: Workload) -> dict[str, tuple[float, dict[str, Any]]]:
    """Of a contender's full and cached steps: median milliseconds, and a trace of the last one.

    Three trajectories: one to warm up, one that is timed, and one whose last two steps are traced.
    """
    for _ in contender.start():
        pass
    contender.drop()
    measured = Measured()
    time_steps(contender, work, measured)
    traces: dict[str, dict[str, Any]] = {}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if work.device.type == "cuda" else [])]
    trajectory = contender.start()
    for _ in range(work.steps - 2):
        next(trajectory)
    for _ in range(2):
        synchronize(work.device)
        with profile(activities=activities) as profiler:
            next(trajectory)
            synchronize(work.device)
        traces["cached" if contender.was_cached() else "full"] = trace_of(profiler)
    contender.drop()
    times = {"full": measured.full, "cached": measured.cached}
    return {step: (1e3 * pd.Series(times[step]).median(), trace) for step, trace in traces.items()}


@torch.inference_mode()
def rows(setting: Setting, case: Case) -> Iterator[dict[str, Any]]:
    """The table's rows of one case."""
    model, device, dtype = random_model(setting.model, setting.image_size, case.precision, case.compiled)
    work = Workload(model, case.batch, setting.cfg_scale, setting.steps, device, dtype, case.compiled)
    bounds = estimates(model, case.batch, setting.cfg_scale != 1, case.precision, H100_SXM)
    least = {bound["step"]: bound["least_ms"] for bound in bounds}
    contenders = {entry.name: entry for entry in project_contenders(work)}
    seen = {name: watched(contenders[name], work) for name in (FULL, CACHED, STACK)}
    for name, step, bound in ROWS:
        step_ms, trace = seen[name][step]
        least_ms = least[bound[case.compiled]]
        yield {
            "case": case.title,
            "method": name,
            "step": step,
            "step_ms": step_ms,
            **parts_of(trace, step_ms),
            "least_ms": least_ms,
            "of_bound": least_ms / step_ms,
        }


COLUMNS = {
    "case": "case",
    "method": "row",
    "step": "step",
    "step_ms": "step, ms ↓",
    "attention_ms": "attention, ms",
    "products_ms": "products, ms",
    "sums_ms": "gated sums, ms",
    "other_ms": "norms, modulation, others, ms",
    "idle_ms": "nothing runs, ms ↓",
    "launches": "kernels",
    "least_ms": "least on an H100 SXM, ms",
    "of_bound": "least / measured ↑",
}


def check(setting: Setting) -> Outcome:
    """All cases of the setting. That the profiler saw no work is a failure: then nothing is known of a step's parts."""
    all_rows = [row for case in setting.profiled for row in rows(setting, case)]
    failures = [
        f"{row['case']}, {row['method']}, {row['step']}: the profiler saw no kernel"
        for row in all_rows
        if not row["launches"]
    ]
    findings = [said(row) for row in all_rows if row["method"] == FULL]
    return Outcome(table(pd.DataFrame(all_rows, columns=list(COLUMNS))), failures, findings)


def said(row: dict[str, Any]) -> str:
    """A row as a sentence."""
    return (
        f"{row['case']}: of {row['step_ms']:.3g} ms of a full step attention takes {row['attention_ms']:.3g}, products "
        f"{row['products_ms']:.3g}, gated sums {row['sums_ms']:.3g}, the rest {row['other_ms']:.3g}; in "
        f"{row['idle_ms']:.3g} nothing runs."
    )


def table(frame: pd.DataFrame) -> Table:
    """The part's table."""
    return Table(
        "profile",
        "What a step consists of",
        "Milliseconds of kernels by their names in one step that torch's profiler watched (on a CPU: of operators). "
        "Step: the median of steps that nothing watched, from an idle device to an idle device; nothing runs: what of "
        "it is no kernel's, as while the next one is launched. Products are those with weights, the modulation's "
        "among them; gated sums: what is added to the residual stream.",
        frame,
        COLUMNS,
    )
