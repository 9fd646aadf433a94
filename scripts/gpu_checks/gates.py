"""Three ways to compute the gates of a step that is cached as a whole, measured: 56 of them in DiT-XL/2.

On a GPU each is a few kernels of microseconds, so the CPU that launches them may be the bound.
"""

import time
from statistics import median
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from benchmarks.random_model import random_model
from torch import Tensor

from goc.models.dit import BRANCHES, DiT
from goc.models.modulation import Modulation, Stacked, StackedModulation
from goc.system.errors import one_line
from gpu_checks.isolated import shortened
from gpu_checks.setting import Outcome, Setting, Table, images

PROJECT, SINGLE, GRAPH = "one product for all, as the project", "one by one", "one by one in a CUDA graph"
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # of a gate, relative to the largest of all
MIB = 2**20


class OneByOne:
    """Each cell's gate by itself, as the project does it on a CPU. Keeps nothing."""

    def __init__(self, model: DiT, activated: Tensor) -> None:
        self.linears, self.activated = model.linears, activated
        self.kept: list[Tensor] = []

    def modulation(self) -> Modulation:
        """What the gates are asked of, anew in each step."""
        return Modulation(self.linears, self.activated)

    def __call__(self) -> list[Tensor]:
        modulation = self.modulation()
        return [modulation.gate(block, branch) for block in range(len(self.linears)) for branch in range(BRANCHES)]


class Batched(OneByOne):
    """The project's on a GPU. Keeps nothing either: the blocks' own weights become parts of the stacked ones."""

    def __init__(self, model: DiT, activated: Tensor) -> None:
        super().__init__(model, activated)
        self.stacked = Stacked.of(self.linears)

    def modulation(self) -> Modulation:
        return StackedModulation(self.linears, self.activated, self.stacked)


class Graph:
    """The same kernels, recorded once and launched as one; the condition is copied in, the gates are kept."""

    WARM_UP = 3  # as torch's manual asks for

    def __init__(self, model: DiT, activated: Tensor) -> None:
        self.activated, self.static = activated, activated.clone()
        one_by_one = OneByOne(model, self.static)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UP):
                one_by_one()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.gates = one_by_one()
        self.kept = [self.static, *self.gates]

    def __call__(self) -> list[Tensor]:
        self.static.copy_(self.activated)
        self.graph.replay()
        return self.gates


def condition(model: DiT, sequences: int, device: torch.device) -> Tensor:
    """SiLU of a step's condition, [sequences, hidden], as the model's forward pass makes it."""
    labels = torch.arange(sequences, device=device) % (model.num_classes + 1)
    return F.silu(model.t_embedder(torch.tensor([500], device=device)) + model.y_embedder(labels))


def timed(ways: dict[str, Any], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way, in turns, from an idle device to an idle device; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def graph_of(model: DiT, activated: Tensor) -> tuple[Graph | None, str]:
    """The graph, or why it cannot be recorded: the other ways are measured all the same."""
    try:
        return Graph(model, activated), ""
    except Exception as error:
        return None, shortened(one_line(error))


@torch.inference_mode()
def measured(setting: Setting, precision: str, batch: int) -> list[dict[str, Any]]:
    """One row for each way, in one format and for one number of images."""
    model, device, dtype = random_model(setting.model, setting.image_size, precision, compiled=False)
    sequences = batch * (2 if setting.cfg_scale != 1 else 1)
    trouble = ""
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        activated = condition(model, sequences, device)
        ways: dict[str, Any] = {PROJECT: Batched(model, activated), SINGLE: OneByOne(model, activated)}
        if setting.graphs:
            graph, trouble = graph_of(model, activated)
            ways |= {GRAPH: graph} if graph else {}
        gates = {name: torch.stack(way()).float() for name, way in ways.items()}
        seconds = timed(ways, setting.gate_repeats, device)
    project = gates[PROJECT]
    medians = {name: median(values) for name, values in seconds.items()}
    where = {"precision": precision, "batch": batch, "gates": len(project)}
    rows: list[dict[str, Any]] = [
        {
            **where,
            "way": name,
            "median_ms": 1e3 * medians[name],
            "least_ms": 1e3 * min(seconds[name]),
            "of_project": medians[name] / medians[PROJECT],
            "quickest": medians[name] == min(medians.values()),
            "kept_mib": sum(tensor.nbytes for tensor in way.kept) / MIB,
            "difference": ((gates[name] - project).abs().max() / project.abs().max()).item(),
            "allowed": TOLERANCE[precision],
            "note": "",
        }
        for name, way in ways.items()
    ]
    return [*rows, {**where, "way": GRAPH, "quickest": False, "note": trouble}] if trouble else rows


def check(setting: Setting) -> Outcome:
    """The three ways (two without CUDA) in each format and batch of the setting, and whether their gates agree."""
    frame = pd.DataFrame(row for precision, batch in setting.gates for row in measured(setting, precision, batch))
    failures, findings = [], []
    for row in frame.to_dict("records"):
        where = f"{row['precision']}, {images(row['batch'])}"
        if row["note"]:
            failures.append(f"{row['way']}, {where}: {row['note']}")
        elif not row["difference"] <= row["allowed"]:  # nor if it is not a number
            failures.append(
                f"{row['way']}, {where}: {row['difference']:.3g} from the project's gates, allowed {row['allowed']:g}"
            )
        if row["quickest"]:
            findings.append(
                f"{where}: quickest is {row['way']}, {row['median_ms']:.3g} ms, {row['of_project']:.2g} times the "
                "project's."
            )
    if not setting.graphs:
        findings.append("CUDA graphs were left out: there is no CUDA here.")
    table = Table(
        "gates",
        "The gates of a cached step",
        f"{setting.model}, {int(frame['gates'].max())} gates, guidance (two sequences an image). Time from an idle "
        f"device to an idle device, {setting.gate_repeats} times in turns; lower is better. Kept: memory that a way "
        "needs between steps, beside the model's. Difference: to the project's gates, relative to the largest.",
        frame,
        {
            "precision": "format",
            "batch": "images",
            "way": "how",
            "median_ms": "ms (median) ↓",
            "least_ms": "ms (least) ↓",
            "of_project": "of the project's ↓",
            "quickest": "quickest",
            "kept_mib": "kept, MiB ↓",
            "difference": "difference ↓",
            "allowed": "allowed",
            "note": "why no numbers",
        },
    )
    return Outcome(table, failures, findings)
