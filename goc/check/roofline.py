"""Least time that full and cached steps can take on a GPU, from the shapes alone (scripts/benchmark.py roofline).

A step takes at least its operations divided by the GPU's peak, and at least its bytes divided by the bandwidth. Bytes
are counted as if every operation read its inputs and wrote its output once, attention in one operation, the residual
stream in float32 and everything else in the precision's format; under compile=true a cached step is one such operation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch

from goc.models.cost import cell_macs, forward_macs
from goc.models.dit import DiT
from goc.models.network import BRANCHES, Site

BATCHES = (1, 8, 32, 64)
RESIDUAL_BYTES = 4
# tensors [N, tokens, hidden] that a computed branch moves, without the residual stream: norm's output, then for
# attention qkv, attention and projection (in 1 + 3 + 1, out 3 + 1 + 1); for the MLP fc1, GELU, fc2 (1 + 4 + 4, 4 + 4
# + 1); and the feature, read again when it is added
ATTENTION_TENSORS, MLP_TENSORS = 1 + 5 + 5 + 1, 1 + 9 + 9 + 1
RESIDUAL_READS = 3  # of a computed branch: norm, and reading and writing the sum


@dataclass(frozen=True)
class Accelerator:
    """Bandwidth in bytes/s; operations/s and bytes of a number by precision."""

    bandwidth: float
    peak: dict[str, float]
    size: dict[str, int]


H100_SXM = Accelerator(3.35e12, {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12}, {"fp32": 4, "tf32": 4, "bf16": 2})

Step = Literal["full", "cached", "compiled"]  # the last a cached step under compile=true: all cells in one pass


def flops(model: DiT, sequences: int, step: Step, site: Site) -> int:
    """Operations of one forward pass: two for each multiply-accumulate (goc.models.cost)."""
    macs = forward_macs(model) - (0 if step == "full" else int(cell_macs(model, site).sum()))
    return 2 * macs * sequences


def moved_bytes(model: DiT, sequences: int, step: Step, site: Site, size: int) -> int:
    """Bytes that one forward pass moves; a cached cell's prediction was formed before (one tensor is read)."""
    hidden, cells = model.hidden_size, model.depth * BRANCHES
    tensor = sequences * model.num_tokens * hidden  # numbers in [N, tokens, hidden]
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters())
    table = model.y_embedder.embedding_table.weight.numel()  # of which a few rows are read
    around = sum(parameter.numel() for parameter in model.parameters()) - blocks - table
    # embedding writes h, the final layer reads it and moves its normalised form
    moved = around * size + 2 * tensor * RESIDUAL_BYTES + 2 * tensor * size
    if step == "full":
        per_block = (ATTENTION_TENSORS + MLP_TENSORS) * size + BRANCHES * RESIDUAL_READS * RESIDUAL_BYTES
        return moved + blocks * size + model.depth * per_block * tensor
    if site == "stack":
        return moved + (2 * RESIDUAL_BYTES + size) * tensor
    gates, passes = cells * (hidden**2 + hidden), 1 if step == "compiled" else cells
    return moved + gates * size + (cells * size + passes * 2 * RESIDUAL_BYTES) * tensor


def estimates(model: DiT, batch: int, guided: bool, precision: str, gpu: Accelerator) -> Iterator[dict[str, Any]]:
    """A full step and the kinds of cached step of `batch` images: operations, bytes, least time, share."""
    sequences = batch * (2 if guided else 1)
    full_seconds = None
    cases: list[tuple[str, Step, Site]] = [
        ("full", "full", "branch"),
        ("cached", "cached", "branch"),
        ("cached, compiled", "compiled", "branch"),
        ("cached, stack", "cached", "stack"),
    ]
    for name, step, site in cases:
        operations = flops(model, sequences, step, site)
        moved = moved_bytes(model, sequences, step, site, gpu.size[precision])
        computing, moving = operations / gpu.peak[precision], moved / gpu.bandwidth
        seconds = max(computing, moving)
        full_seconds = full_seconds or seconds
        yield {
            "precision": precision,
            "batch": batch,
            "step": name,
            "gflop": operations / 1e9,
            "mb": moved / 1e6,
            "least_ms": 1e3 * seconds,
            "bound": "compute" if computing > moving else "memory",
            "of_full": seconds / full_seconds,
        }


def table(name: str, input_size: int, guided: bool, gpu: Accelerator = H100_SXM) -> pd.DataFrame:
    """The estimates of a published architecture for all batches and precisions."""
    with torch.device("meta"):
        model = DiT.published(name, input_size)
    return pd.DataFrame(
        row for precision in gpu.peak for batch in BATCHES for row in estimates(model, batch, guided, precision, gpu)
    )
