"""A denoiser from its shape and its checkpoint, and on its device."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from goc.models.checkpoint import fill, load_state_dict, recorded_objective
from goc.models.dit import DiT
from goc.models.gated import Add, add_gated
from goc.models.layers import sincos_positions
from goc.models.network import Network
from goc.models.objective import DIFFUSION, FLOW
from goc.system.errors import GocError

T = TypeVar("T", bound=Network)

log = logging.getLogger(__name__)


def load_model(shape: Mapping[str, int], checkpoint: Path, objective: str = DIFFUSION) -> DiT:
    """The denoiser of a shape (DiT's arguments) with the weights of a checkpoint, on the CPU, ready to sample.

    A checkpoint without a row for the null label, or without a learned variance, makes a denoiser without it. Raises
    GocError for a file that does not fit the shape, or was trained for another objective as far as it tells.
    """
    with torch.device("meta"):  # no time for random weights that are then replaced
        model = DiT(**shape)
    state = load_state_dict(checkpoint, model.state_dict())
    lacking = _lacking(model, state)
    if lacking:
        with torch.device("meta"):
            model = DiT(**shape, **lacking)
    if "pos_embed" not in state:  # it is fixed, and not all keep it
        state["pos_embed"] = sincos_positions(model.input_size // model.patch_size, shape["hidden_size"])[None]
    fill(model, state, checkpoint)
    if not model.null_label:
        log.warning(
            "model.checkpoint=%s: its label table has a row for each of model.num_classes=%d and none for the null "
            "label: it runs without guidance only",
            checkpoint,
            model.num_classes,
        )
    check_objective(model, checkpoint, objective)
    return model.eval().requires_grad_(False)


def _lacking(model: DiT, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Arguments of DiT for what a checkpoint lacks: a row for the null label, channels for a learned variance."""
    lacking = {}
    table, bias = (state.get(name) for name in ("y_embedder.embedding_table.weight", "final_layer.linear.bias"))
    if table is not None and table.shape[:1] == (model.num_classes,):
        lacking["labels"] = model.num_classes
    if bias is not None and bias.shape == (model.patch_size**2 * model.in_channels,):
        lacking["out_channels"] = model.in_channels
    return lacking


def check_objective(model: DiT, checkpoint: Path, objective: str) -> None:
    """Raise GocError if a checkpoint was trained for another objective; warn where that is likely but not certain.

    Names and shapes are the same for both. A file of this project says which it is; in any other, the variance half of
    the last layer tells: diffusion trains it, while flow matching leaves it at the zeros it starts from. Without such a
    half nothing tells.
    """
    said = recorded_objective(checkpoint)
    if model.learned_variance:
        noise, variance = (bool(half.any()) for half in model.output_halves().unbind(1))
    else:
        noise, variance = True, None
    if said is None and noise and variance is False:
        said = FLOW
    require_objective(said, checkpoint, objective)
    if said is None and objective == FLOW and variance:
        log.warning(
            "%s: its variance half is not zero, as in a diffusion model; if it is one, set model.objective=%s",
            checkpoint,
            DIFFUSION,
        )


def require_objective(said: str | None, checkpoint: Path, objective: str) -> None:
    """Raise GocError if a checkpoint says that it was trained for another objective."""
    if said is not None and said != objective:
        raise GocError(f"model.objective={objective}: must be {said}, which {checkpoint} was trained for")


def prepare(model: T, device: torch.device, dtype: torch.dtype | None, compiled: bool, graphs: bool = False) -> T:
    """The model on its device, its linear and convolution weights in the format of its products; changes the argument.

    With a 16-bit format (None: float32) the forward pass is to run under autocast: products are in 16 bits, and the
    residual stream, norms and sampler stay in float32. The weights are converted once here, since autocast would do it
    in every step. On a GPU the modulation vectors of a step are made by one product, and what a step adds that is
    cached whole is added by one kernel; but one by one in graphs, where launches are free, and the kernel's list of
    addresses cannot be sent.
    """
    model.to(device)
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
    if device.type == "cuda":
        model.stack_modulation()
        model.add_all = add_gated if graphs else add_on_gpu()
    if compiled:
        model.compile_branches()
    return model


def add_on_gpu() -> Add:
    """`add_gated` as one kernel, where Triton is installed, as torch for GPUs brings it."""
    try:
        from goc.models.gated_kernel import add_at_once
    except ImportError:
        return add_gated
    return add_at_once
