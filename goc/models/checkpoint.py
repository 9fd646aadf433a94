"""Loading weights: safely, strictly, and with errors that name the file and the tensors."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from goc.errors import GocError

LISTED = 3


def require_checkpoint(path: Path) -> None:
    """Raise GocError, with how to get it, if there is no such file."""
    if not path.is_file():
        raise GocError(
            f"model.checkpoint={path}: no such file (looked for {path.absolute()}); "
            "get released weights with `python scripts/fetch_weights.py`"
        )


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch checkpoint, on the CPU; no code of the file is ever run.

    Raises GocError when the file is missing, damaged, or no state dict.
    """
    require_checkpoint(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GocError(f"model.checkpoint={path}: truncated or not a checkpoint ({reason})") from error
    if isinstance(state, dict) and isinstance(state.get("ema"), dict):
        state = state["ema"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise GocError(f"model.checkpoint={path}: holds no state dict")
    return state


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model of the same names and shapes; raises GocError naming the tensors that differ."""
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
    # in place of the model's own tensors, which may be without storage (device meta)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
