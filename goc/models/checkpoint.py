"""Loading weights: safely, strictly, and with errors that name the file and the tensors."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from goc.system.errors import GocError

LISTED = 3
# what a damaged file, or one of another kind, can mean to torch.load
DAMAGED = (
    SafetensorError, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, pickle.UnpicklingError,
)  # fmt: skip
ALLOWED = "must be a .safetensors file or a PyTorch state dict (.pt), of tensors alone"


def require_checkpoint(path: Path) -> None:
    """Raise GocError, with how to get it, if there is no such file."""
    if not path.is_file():
        raise GocError(
            f"model.checkpoint={path}: no such file (looked for {path.absolute()}); "
            "get released weights with `python scripts/fetch_weights.py`"
        )


def read_pickle(path: Path) -> Any:
    """What is in a PyTorch file, on the CPU; no code of the file is ever run.

    Raises ValueError, of one line, if it is damaged, of another kind, or would run code.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol of files it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        # torch's own text explains how to run the code in the file
        raise ValueError("truncated or not a checkpoint, or a pickle that would run code") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or PyTorch file (there the entry "ema", if it has one).

    Raises ValueError, of one line, if the file is damaged or holds anything else.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except DAMAGED as error:
            raise ValueError(f"truncated or not a checkpoint ({str(error).splitlines()[0]})") from error
    state = read_pickle(path)
    if isinstance(state, dict) and isinstance(state.get("ema"), dict):
        state = state["ema"]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError("holds no state dict")
    return state


def recorded_objective(path: Path) -> str | None:
    """The training objective that a .safetensors file was marked with; None if it was not, or is of another kind."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("objective")


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint; raises GocError when the file is missing, damaged, or no state dict."""
    require_checkpoint(path)
    try:
        return read_tensors(path)
    except ValueError as error:
        raise GocError(f"model.checkpoint={path}: {error}; {ALLOWED}") from error


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model of the same names and shapes; raises GocError naming the tensors that differ
    or are not finite."""
    state, expected = load_state_dict(path), model.state_dict()
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": shapes,
    }
    found = [f"{_listed(names)} {kind}" for kind, names in problems.items() if names]
    if found:
        raise GocError(f"model.checkpoint={path}: does not fit the model: {'; '.join(found)}")
    wrong = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise GocError(
            f"model.checkpoint={path}: holds values that are not finite (NaN or infinite) in {_listed(wrong)}"
        )
    # in place of the model's own tensors, which may be without storage (device meta)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
