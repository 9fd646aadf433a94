"""On a block at site "branch": what comes out of it is shown to a pass, whose last ones caches may look at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from goc.pipelines.hooks.carried import ENCODER, carried_of
from goc.pipelines.hooks.place import tensors_of
from goc.pipelines.session import CachedTransformer


class StreamHook:
    """A block, whose outputs are noted by what goes through it.

    Args:
        cached: the transformer. module: the block. original: what it does, or what stands in for that.
    """

    def __init__(self, cached: CachedTransformer, module: nn.Module, original: Callable[..., Any]) -> None:
        self.cached, self.original = cached, original
        carried = carried_of(module)
        names, self.orders = carried.names, carried.orders
        self.numbers = [index + len(names) * (name == ENCODER) for index, name in enumerate(names)]  # the text last

    @torch.compiler.disable
    def note(self, output: Any) -> None:
        """The block was computed, or stood in for."""
        if (under_way := self.cached.forward_pass) is None:
            return
        outputs = tensors_of(output)
        order = self.orders.get(len(outputs), range(len(self.numbers)))
        for index, tensor in zip(order, outputs, strict=False):
            if index is not None and isinstance(tensor, Tensor):
                under_way.streams[self.numbers[index]] = tensor

    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.original(*args, **kwargs)
        self.note(output)
        return output
