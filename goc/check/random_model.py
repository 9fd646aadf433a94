"""A published architecture with random weights, on its device and in its format, to be timed."""

import torch

from goc.cli.random_weights import DOWNSAMPLING, randomize
from goc.models.build import prepare
from goc.models.dit import DiT
from goc.system.device import choose_device, configure, torch_format
from goc.system.errors import ConfigError


def random_model(
    name: str, image_size: int, precision: str, compiled: bool
) -> tuple[DiT, torch.device, torch.dtype | None]:
    """The model, where it is (a GPU if there is one), and the format of its products (None: float32).

    The weights are drawn on that device: a CPU takes seconds for each of the largest. Sets what torch keeps for the
    process (`configure`). Raises ConfigError for a model or size that there is not.
    """
    device, dtype = choose_device("auto"), torch_format(precision)
    configure(device, precision, deterministic=False, threads=None)
    try:
        with device:
            model = DiT.published(name, image_size // DOWNSAMPLING)
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"--model {name} --image-size {image_size}: {error}") from error
    randomize(model, seed=0)
    return prepare(model.eval().requires_grad_(False), device, dtype, compiled), device, dtype
