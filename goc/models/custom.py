"""A network of a plugin: made by its class, held to what caches need of it, and filled from a checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import torch

from goc.models.build import require_objective
from goc.models.checkpoint import load_weights, recorded_objective
from goc.models.network import ATTENTION, MLP, Network
from goc.models.objective import DIFFUSION
from goc.system.errors import GocError, one_line
from goc.system.registry import load_object

METHODS = {"tokens": "tokens", "branch": "branch add_branch", "output": "output"}  # any of them will do
NUMBERS = ("input_size", "in_channels", "num_classes", "depth")


def load_network(reference: str, shape: Mapping[str, int], checkpoint: Path, objective: str = DIFFUSION) -> Network:
    """The network that `module:class` makes of a shape, with a checkpoint's weights, on the CPU, ready to sample.

    shape: keyword arguments, of which those that are 0 are not given. Raises GocError, one line, for one that cannot be
    made, lacks what a cache needs, or does not fit the checkpoint, as far as that tells.
    """
    given = {name: value for name, value in shape.items() if value}
    try:
        model = load_object(reference)(**given)
    except Exception as error:  # whatever another's module and class may raise
        arguments = ", ".join(f"{name}={value}" for name, value in given.items())
        raise GocError(f"model.network={reference}: cannot be made with {arguments}: {one_line(error)}") from error
    if lack := lacking(model, given):
        raise GocError(f"model.network={reference}: {lack} (see goc.plugin.Network)")
    load_weights(model, checkpoint)
    require_objective(recorded_objective(checkpoint), checkpoint, objective)
    model.eval().requires_grad_(False)
    try:
        wrong = ill_shaped(model)
    except Exception as error:
        raise GocError(f"model.network={reference}: fails at two samples: {one_line(error)}") from error
    if wrong:
        raise GocError(f"model.network={reference}: {wrong} (see goc.plugin.Network)")
    return model


def lacking(model: object, given: Mapping[str, int]) -> str:
    """What an object lacks to be a network of this shape, in a few words; empty: nothing."""
    if not isinstance(model, Network):
        return f"makes a {type(model).__name__}, which must be a Network"
    methods = [
        name
        for name, either in METHODS.items()
        if all(getattr(type(model), method) is getattr(Network, method) for method in either.split())
    ]
    numbers = [name for name in NUMBERS if not isinstance(getattr(model, name, None), int)]
    if methods or numbers:
        return "lacks " + ", ".join([*(f"{name}()" for name in methods), *numbers])
    differing = [name for name in NUMBERS if getattr(model, name) != given.get(name, getattr(model, name))]
    return ", ".join(f"its {name} is {getattr(model, name)}, must be model.{name}={given[name]}" for name in differing)


@torch.inference_mode()
def ill_shaped(model: Network) -> str:
    """The first tensor of a step of two samples that has not the shape that it must have; empty: all have."""
    size, channels = model.input_size, model.in_channels
    x, y = torch.zeros(2, channels, size, size), torch.zeros(2, dtype=torch.long)
    h, condition = model.tokens(x, torch.zeros(1), y)
    if h.ndim != 3 or len(h) != 2:
        return f"tokens() gives h {list(h.shape)} of two samples: must be [2, tokens, hidden]"
    if len(condition) != 2:
        return f"tokens() gives a condition {list(condition.shape)} of two samples: must be [2, ...]"
    modulation = model.modulation(condition)
    for branch in (ATTENTION, MLP):
        _, feature = model.add_branch(0, branch, h.clone(), modulation)
        if feature.shape != h.shape:
            return f"branch() gives {list(feature.shape)} for h {list(h.shape)}: must be of one shape"
    made, expected = model.output(h, condition).shape, [2, channels * (1 + model.learned_variance), size, size]
    if list(made) != expected:
        return f"output() gives {list(made)}: must be {expected} with learned_variance={model.learned_variance}"
    return ""
