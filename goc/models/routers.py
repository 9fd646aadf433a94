"""Router checkpoints of Learning-to-Cache (arXiv 2406.01733), in the format the authors publish.

A pickle of {"routers": {"r.prob": float [2 depth]}, "opt": ..., "args": argparse.Namespace}: r is the authors' step
number, counted from the last sampling step; entry 2 l is the attention of block l, entry 2 l + 1 its MLP; the
probability of computing a cell is sigmoid(prob).
"""

import argparse
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.models.checkpoint import DAMAGED, read_pickle
from goc.models.entries import odd_kind
from goc.models.network import BRANCHES
from goc.system.errors import GocError
from goc.system.files import write_atomically


def load_router(path: Path, steps: int, depth: int) -> Tensor:
    """Probabilities of computing each cell, float [steps, depth, 2], indexed by the router number r.

    No code of the file is run. Raises GocError when it is missing, damaged, or for another model or number of steps.
    """
    if not path.is_file():
        raise GocError(f"schedule.router={path}: not a router checkpoint (no such file)")
    try:
        routers = _numbered(read_pickle(path)["routers"])
    except DAMAGED as error:
        raise GocError(f"schedule.router={path}: not a router checkpoint ({error})") from error
    if sorted(routers) != list(range(steps)):
        raise GocError(f"schedule.router={path}: is for {len(routers)} steps, not for steps={steps}")
    cells = {tuple(logits.shape) for logits in routers.values()}
    if cells != {(BRANCHES * depth,)}:
        depths = ", ".join(str(shape[0] // BRANCHES) for shape in sorted(cells))
        raise GocError(f"schedule.router={path}: is for a model of depth {depths}, not {depth}")
    return torch.stack([routers[r] for r in range(steps)]).float().view(steps, depth, BRANCHES).sigmoid()


def trained_on(path: Path) -> tuple[int, int] | None:
    """The seed that a router was trained on, and how many of its samples; None where its file does not say."""
    try:
        args = vars(read_pickle(path)["args"])
        return int(args["seed"]), int(args["iterations"]) * int(args["batch"])
    except (*DAMAGED, OSError, KeyError, TypeError, ValueError):
        return None


def _numbered(routers: Any) -> dict[int, Tensor]:
    """Logits [cells] by the router number, of a checkpoint's entry; raises ValueError for anything else."""
    if not isinstance(routers, dict) or not all(isinstance(name, str) for name in routers):
        raise ValueError("routers must be tensors by their names")
    numbered: dict[int, Tensor] = {}
    for name, logits in routers.items():
        number = name.removesuffix(".prob")
        if not (number.isascii() and number.isdigit()) or str(int(number)) != number or int(number) in numbered:
            raise ValueError(f"{name} is not the name of a router")
        if kind := odd_kind(logits) if isinstance(logits, Tensor) else "no tensor":
            raise ValueError(f"{name} is {kind}")
        if logits.dim() != 1 or not logits.isfinite().all():
            raise ValueError(f"{name} must be a row of finite numbers")
        numbered[int(number)] = logits
    return numbered


def save_router(path: Path, logits: Tensor, args: argparse.Namespace) -> None:
    """Write logits [steps, depth, 2], indexed by the router number r, in the authors' format."""
    routers = {f"{r}.prob": row.flatten().clone() for r, row in enumerate(logits.detach().cpu())}
    buffer = io.BytesIO()
    torch.save({"routers": routers, "opt": {}, "args": args}, buffer)
    write_atomically(path, buffer.getvalue())
