"""On a block at site "branch": what comes out of it is shown to a pass, whose last ones caches may look at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from goc.pipelines.hooks.carried import carried_of
from goc.pipelines.hooks.place import tensors_of
from goc.pipelines.session import CachedTransformer


class StreamHook:
    """A block, whose outputs are noted by what goes through it.

    Args:
        cached: the transformer. module: the block. original: what it does, or what stands in for that.
    """

    def __init__(self, cached: CachedTransformer, module: nn.Module, original: Callable[..., Any]) -> None:
        self.cached, self.original, self.carried = cached, original, carried_of(module)

    @torch.compiler.disable
    def note(self, output: Any) -> None:
        """The block was computed, or stood in for."""
        if (under_way := self.cached.forward_pass) is None:
            return
        outputs = tensors_of(output)
        for index, tensor in zip(self.carried.orders.get(len(outputs), range(len(outputs))), outputs, strict=False):
            if index is not None and isinstance(tensor, Tensor):
                under_way.streams[index] = tensor

    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.original(*args, **kwargs)
        self.note(output)
        return output
