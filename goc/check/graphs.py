"""A step launched as a CUDA graph against the same step kernel by kernel: the same bits, and how fast."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from goc.check.contenders import Project, Workload, project_contenders
from goc.check.random_model import random_model
from goc.check.setting import Outcome, Setting, Table, images
from goc.models.gated import add_gated
from goc.sampling.generation import Generation
from goc.sampling.graphs import CAPTURED_AFTER, Capture, Graphs, cuda_capture

PRECISION = "bf16"
METHODS = {False: ("none", "goc 50 %", "goc stack 50 %"), True: ("none",)}  # by whether it is tiny
BATCHES = {False: (1, 8, 32), True: (1,)}


def computed_again() -> Capture:
    """Stands in for CUDA graphs on a CPU, where there is no cache: a replay is the evaluation, into the same output."""

    def capture(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = compute().clone()

        def replay() -> None:
            output.copy_(compute())

        return replay, output

    return capture


def step_ms(generation: Generation, batch: int, cached: Sequence[int], repeats: int) -> dict[str, float]:
    """Median milliseconds of full and of cached steps, and images per second of the whole trajectory."""
    taken = [generation.step_seconds(batch) for _ in range(1 + repeats)][1:]
    each: dict[str, list[float]] = {"full": [], "cached": []}
    for seconds in taken:
        for step, second in enumerate(seconds):
            each["cached" if step in cached else "full"].append(1e3 * second)
    times = {f"{kind}_ms": median(values) if values else float("nan") for kind, values in each.items()}
    return {**times, "images_per_s": batch / median(sum(seconds) for seconds in taken)}


def compared(contender: Project, work: Workload, capture: Callable[[], Capture], repeats: int) -> dict[str, Any]:
    """A row: whether graphs were kept, whether a batch of theirs has the same bits, and both kinds' times."""
    model, cached, batch = work.model, contender.cached_steps(work.steps), work.batch
    plain = replace(work.generation(), new_cache=contender.new_cache)
    kernel, given = model.add_all, range(batch)
    eager = step_ms(plain, batch, cached, repeats)  # as without graphs
    model.add_all = add_gated  # as with graphs
    graphs = Graphs(plain.new_cache, capture)
    graphed = replace(plain, graphs=graphs)
    for _ in range(CAPTURED_AFTER):
        graphed.make(given)
    other = range(batch, 2 * batch)
    same = torch.equal(graphed.make(other)[0]["latents"], plain.make(other)[0]["latents"])
    replayed = dict.fromkeys(eager, float("nan")) if graphs.off else step_ms(graphed, batch, cached, repeats)
    model.add_all = kernel
    return {
        "method": contender.name,
        "batch": batch,
        "note": graphs.off,
        "same": same,
        **{f"eager_{name}": value for name, value in eager.items()},
        **{f"graph_{name}": value for name, value in replayed.items()},
        "times": replayed["images_per_s"] / eager["images_per_s"],
    }


COLUMNS = {
    "method": "row",
    "batch": "images",
    "same": "same bits",
    "eager_full_ms": "full step, ms ↓",
    "graph_full_ms": "as a graph, ms ↓",
    "eager_cached_ms": "cached step, ms ↓",
    "graph_cached_ms": "as a graph, ms ↓ ",
    "eager_images_per_s": "images/s ↑",
    "graph_images_per_s": "with graphs, images/s ↑",
    "times": "times as fast ↑",
    "note": "why no graphs",
}


@torch.inference_mode()
def rows(setting: Setting, capture: Callable[[], Capture]) -> Iterator[dict[str, Any]]:
    """The table's rows."""
    model, device, dtype = random_model(setting.model, setting.image_size, PRECISION, compiled=False)
    for batch in BATCHES[setting.is_tiny]:
        work = Workload(model, batch, setting.cfg_scale, setting.steps, device, dtype)
        contenders = {entry.name: entry for entry in project_contenders(work)}
        for name in METHODS[setting.is_tiny]:
            contender = contenders[name]
            assert isinstance(contender, Project)
            yield compared(contender, work, capture, setting.repeats)


def check(setting: Setting) -> Outcome:
    """All rows. Other bits are a failure, and so is an evaluation that cannot be captured."""
    all_rows = list(rows(setting, computed_again if setting.is_tiny else cuda_capture))
    failures = []
    for row in all_rows:
        named = f"{row['method']}, {images(row['batch'])}"
        if not row["same"]:
            failures.append(f"{named}: a batch made by graphs has other bits")
        if row["note"]:
            failures.append(f"{named}: launched kernel by kernel, as {row['note']}")
    kept = [row for row in all_rows if not row["note"]]
    findings = [f"{sum(row['same'] for row in kept)} of {len(all_rows)} trajectories have the same bits as graphs."]
    if kept:
        best = max(kept, key=lambda row: float(row["times"]))
        findings.append(
            f"Most is gained with {images(best['batch'])} ({best['method']}): {best['graph_images_per_s']:.3g} "
            f"images/s with graphs, {best['eager_images_per_s']:.3g} without."
        )
    return Outcome(table(pd.DataFrame(all_rows, columns=list(COLUMNS))), failures, findings)


def table(frame: pd.DataFrame) -> Table:
    """The part's table."""
    return Table(
        "graphs",
        "Steps as CUDA graphs",
        f"Trajectories in {PRECISION}, launched kernel by kernel and as CUDA graphs (graphs=true; in the tiny setting "
        "computed again in place of a graph). Times are medians of steps, from an idle device to an idle device. Bits "
        "are those of a batch that was not captured.",
        frame,
        COLUMNS,
    )
