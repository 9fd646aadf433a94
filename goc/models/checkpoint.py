"""Loading weights: safely, strictly, and with errors that name the file and the tensors."""

import argparse
import logging
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from goc.models.entries import LEARNT, Entry, find_entry, learnt_share, listed_entries, odd_kind, pick_model
from goc.system.errors import GocError
from goc.system.files import ASSETS, irregular

log = logging.getLogger(__name__)

LISTED = 3
# what a damaged file, or one of another kind, can mean to torch.load
DAMAGED = (
    SafetensorError, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, pickle.UnpicklingError,
)  # fmt: skip
RELEASED = "get released weights with `goc fetch`"
LEFT_OUT = "assets that an installed package leaves out are in a checkout"
ALLOWED = "must be a .safetensors file or a PyTorch state dict (.pt), of tensors alone"
CODE = re.compile(r"Unsupported (?:global|operand|class).*?\b((?:\w+\.)+\w+)", re.DOTALL)  # in what torch.load says


def require_checkpoint(path: Path) -> None:
    """Raise GocError, with how to get it, if there is no such file."""
    if path.is_dir():
        raise GocError(f"model.checkpoint={path}: is a folder; {ALLOWED}")
    if path.exists() and (kind := irregular(path)):
        raise GocError(f"model.checkpoint={path}: is {kind}; {ALLOWED}")
    if not path.is_file():
        where = LEFT_OUT if path.is_relative_to(ASSETS) else RELEASED
        raise GocError(f"model.checkpoint={path}: no such file (looked for {path.absolute()}); {where}")


def read_pickle(path: Path) -> Any:
    """What is in a PyTorch file, on the CPU; no code of the file is ever run.

    Beside tensors and Python's own containers and numbers it may hold an argparse.Namespace of them, as trainings leave
    it. Raises ValueError, of one line, if the file is damaged, of another kind, or would run code.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # about the pickle protocol of files it then refuses
            torch.serialization.safe_globals([argparse.Namespace]),
            path.open("rb") as file,  # by its name torch might take it for another format
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        # torch's own text explains how to run the code in the file
        wanted = CODE.search(str(error))
        named = f" ({wanted[1]})" if wanted else ""
        raise ValueError(f"truncated or not a checkpoint, or a pickle that would run code{named}") from error


def is_safetensors(path: Path) -> bool:
    """Whether a file is to be read as safetensors: by how it begins, and by its name where that tells nothing."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # the length of its header, and the header, which is JSON
        return True
    return path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80\x02"))  # a zip, and a pickle


def read_entry(path: Path) -> Entry:
    """The state dict in a .safetensors or PyTorch file, and which entry of it that is: the EMA, if it has one.

    Raises ValueError, of one line, if the file is damaged or holds no state dict.
    """
    if is_safetensors(path):
        try:
            return Entry(load_file(path))
        except DAMAGED as error:
            raise ValueError(f"truncated or not a checkpoint ({str(error).splitlines()[0]})") from error
    content = read_pickle(path)
    entry = find_entry(content)
    if entry is None:
        entries = listed_entries(content)
        raise ValueError(f"holds no state dict{f' (its entries: {entries})' if entries else ''}")
    return entry


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or PyTorch file (there the entry "ema", if it has one).

    Raises ValueError, of one line, if the file is damaged, or holds anything else or values that are not finite.
    """
    state = read_entry(path).state
    require_finite(state.items())
    return state


def require_finite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ValueError naming those tensors that hold NaN or infinite values; integers and empty ones hold none."""
    wrong = [name for name, tensor in tensors if not _finite(tensor)]
    if wrong:
        raise ValueError(f"holds values that are not finite (NaN or infinite) in {listed(wrong)}")


def _finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or tensor.layout != torch.strided:
        return True
    if tensor.dtype.itemsize == 1 or tensor.is_complex():  # of which torch has no extremes
        return bool(torch.isfinite(tensor if tensor.is_complex() else tensor.float()).all())
    # one pass without a tensor more; NaN is passed on
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())


def recorded_objective(path: Path) -> str | None:
    """The training objective that a .safetensors file was marked with; None if it was not, or is of another kind."""
    if not is_safetensors(path):
        return None
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("objective")


def listed(names: Iterable[str]) -> str:
    """The first of some names, and how many there are more."""
    all_names = list(names)
    more = f" and {len(all_names) - LISTED} more" if len(all_names) > LISTED else ""
    return ", ".join(all_names[:LISTED]) + more


def load_state_dict(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the model that a checkpoint holds, by the names that are expected as far as it has them.

    Says which entry was taken of a file that holds more than one state dict, and warns of an EMA that was not updated.
    Raises GocError when the file is missing, damaged, or holds no state dict.
    """
    require_checkpoint(path)
    try:
        model = pick_model(read_entry(path), expected)
    except ValueError as error:
        raise GocError(f"model.checkpoint={path}: {error}; {ALLOWED}") from error
    if model.where:
        others = f" ({model.left_out} with other names left out)" if model.left_out else ""
        log.info("model.checkpoint=%s: %s is taken%s", path, model.where, others)
    if model.unread:
        log.warning('model.checkpoint=%s: its "%s" may be an EMA, and is not what is run', path, model.unread)
    share = None if model.beside is None else learnt_share(model.state, model.beside)
    if share is not None and share < LEARNT:
        log.warning(
            "model.checkpoint=%s: its EMA was never updated, or hardly: it has %.0f %% of what the weights beside it "
            "have learnt; a file of those alone, without the EMA, runs them",
            path,
            100 * max(share, 0.0),
        )
    return model.state


def problems(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of tensors that a model cannot take, by what is wrong with them; expected: its own."""
    both = [name for name in expected if name in state]
    return {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}"
            for name in both
            if state[name].shape != expected[name].shape
        ],
        "of another kind": [f"{name} ({kind})" for name in both if (kind := odd_kind(state[name]))],
    }


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put the tensors of a checkpoint, the file `path`, into a model of the same names and shapes.

    Raises GocError naming the tensors that differ, are of another kind or not finite.
    """
    misfits = [f"{listed(names)} {kind}" for kind, names in problems(state, model.state_dict()).items() if names]
    if misfits:
        raise GocError(f"model.checkpoint={path}: does not fit the model: {'; '.join(misfits)}")
    # what float64 holds may be infinite in float32; a view of a larger tensor becomes a tensor of its own
    weights = {name: tensor.detach().float().contiguous() for name, tensor in state.items()}
    try:
        require_finite(weights.items())
    except ValueError as error:
        raise GocError(f"model.checkpoint={path}: {error}") from error
    # in place of the model's own tensors, which may be without storage (device meta)
    model.load_state_dict(weights, assign=True)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model of the same names and shapes; raises GocError as `load_state_dict` and `fill`."""
    fill(model, load_state_dict(path, model.state_dict()), path)
