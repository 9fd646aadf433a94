"""A denoiser from its shape and its checkpoint, and on its device."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from goc.models.checkpoint import load_weights, recorded_objective
from goc.models.dit import DiT
from goc.models.objective import DIFFUSION, FLOW
from goc.system.errors import GocError

log = logging.getLogger(__name__)


def load_model(shape: Mapping[str, int], checkpoint: Path, objective: str = DIFFUSION) -> DiT:
    """The denoiser of a shape (DiT's arguments) with the weights of a checkpoint, on the CPU, ready to sample.

    Raises GocError for a file that does not fit the shape, or was trained for another objective as far as it tells.
    """
    with torch.device("meta"):  # no time for random weights that are then replaced
        model = DiT(**shape)
    load_weights(model, checkpoint)
    check_objective(model, checkpoint, objective)
    return model.eval().requires_grad_(False)


def check_objective(model: DiT, checkpoint: Path, objective: str) -> None:
    """Raise GocError if a checkpoint was trained for another objective; warn where that is likely but not certain.

    Names and shapes are the same for both. A file of this project says which it is; in any other, the variance half of
    the last layer tells: diffusion trains it, while flow matching leaves it at the zeros it starts from.
    """
    said = recorded_objective(checkpoint)
    noise, variance = (bool(half.any()) for half in model.output_halves().unbind(1))
    if said is None and noise and not variance:
        said = FLOW
    if said is not None and said != objective:
        raise GocError(f"model.objective={objective}: must be {said}, which {checkpoint} was trained for")
    if said is None and objective == FLOW and variance:
        log.warning(
            "%s: its variance half is not zero, as in a diffusion model; if it is one, set model.objective=%s",
            checkpoint,
            DIFFUSION,
        )


def prepare(model: DiT, device: torch.device, dtype: torch.dtype | None, compiled: bool) -> DiT:
    """The model on its device, its linear and convolution weights in the format of its products; changes the argument.

    With a 16-bit format (None: float32) the forward pass is to run under autocast: products are in 16 bits, and the
    residual stream, norms and sampler stay in float32. The weights are converted once here, since autocast would do it
    in every step. On a GPU the modulation vectors of a step are made by one product.
    """
    model.to(device)
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
    if device.type == "cuda":
        model.stack_modulation()
    if compiled:
        model.compile_branches()
    return model
