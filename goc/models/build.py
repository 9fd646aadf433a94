"""A denoiser from its shape and its checkpoint, and on its device."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from goc.models.checkpoint import load_weights
from goc.models.dit import DiT


def load_model(shape: Mapping[str, int], checkpoint: Path) -> DiT:
    """The denoiser of a shape (DiT's arguments) with the weights of a checkpoint, on the CPU, ready to sample."""
    with torch.device("meta"):  # no time for random weights that are then replaced
        model = DiT(**shape)
    load_weights(model, checkpoint)
    return model.eval().requires_grad_(False)


def prepare(model: DiT, device: torch.device, dtype: torch.dtype | None, compiled: bool) -> DiT:
    """The model on its device, its linear and convolution weights in the format of its products; changes the argument.

    With a 16-bit format (None: float32) the forward pass is to run under autocast: products are in 16 bits, and the
    residual stream, norms and sampler stay in float32. The weights are converted once here, since autocast would do it
    in every step.
    """
    model.to(device)
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
    if compiled:
        model.compile_branches()
    return model
