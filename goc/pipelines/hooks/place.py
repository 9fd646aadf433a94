"""The hook on a module that may be cached: what branches and blocks have in common."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from goc.pipelines.forward_pass import ForwardPass
from goc.pipelines.session import CachedTransformer


def tensors_of(output: Any) -> tuple[Any, ...]:
    """What a module gave, as a tuple."""
    return output if isinstance(output, tuple) else (output,)


class PlaceHook:
    """On a module that may be cached: `stand_in` gives what it would have given, or `keep` takes what it gave.

    Args:
        cached: the transformer, whose pass the module's calls are of.
        place, block: numbers of the place and of its block.
        module: of this place.
    """

    def __init__(self, cached: CachedTransformer, place: int, block: int, module: nn.Module) -> None:
        self.cached, self.place, self.block, self.module = cached, place, block, module
        self.original = module.forward
        self.watched = False  # whether the call that comes next is looked into

    def stand_in(self, under_way: ForwardPass, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The module's output if it is cached now, or None."""
        raise NotImplementedError

    def keep(self, under_way: ForwardPass, output: Any) -> None:
        """The module was computed."""
        raise NotImplementedError

    def look_into(self, under_way: ForwardPass, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The module's output, computed and watched."""
        raise NotImplementedError

    @torch.compiler.disable
    def watch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The same of a call that is looked into; not compiled."""
        self.watched = False
        return self.look_into(cast(ForwardPass, self.cached.forward_pass), args, kwargs)

    @torch.compiler.disable
    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The module's output if the cache works and it is cached."""
        under_way = self.cached.forward_pass
        looks = under_way is not None and not under_way.of_network
        return self.stand_in(cast(ForwardPass, under_way), args, kwargs) if looks else None

    @torch.compiler.disable
    def after(self, output: Any) -> None:
        """The module was computed."""
        under_way = self.cached.forward_pass
        if under_way is not None and not under_way.of_network:
            self.keep(under_way, output)

    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module, or what stands in for it."""
        output = self.before(args, kwargs)
        if output is None:
            output = self.watch(args, kwargs) if self.watched else self.original(*args, **kwargs)
            self.after(output)
        return output
