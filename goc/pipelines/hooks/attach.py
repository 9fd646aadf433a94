"""The hooks of a cache: put around a transformer's modules, and taken away."""

from collections.abc import Callable
from itertools import chain
from typing import Any
from weakref import WeakSet

from torch import nn

from goc.pipelines.hooks.block import BlockHook
from goc.pipelines.hooks.branch import BranchHook
from goc.pipelines.hooks.replaced import Replaced
from goc.pipelines.hooks.stream import StreamHook
from goc.pipelines.hooks.transformer import CONTEXT, TransformerHook, context_hook
from goc.pipelines.session import CachedTransformer, PipelineCache

hooked: WeakSet[nn.Module] = WeakSet()  # transformers that have a cache; a copy of one has none


def hook(cache: PipelineCache) -> Callable[[], None]:
    """Put a cache around its transformers' modules; what this gives takes it away. Raises PipelineError, unchanged.

    Compiled modules are not compiled anew afterwards: their attributes are what they were.
    """
    hooks = [one for cached in cache.transformers for one in hooks_of(cache, cached)]
    put = [Replaced(*one) for one in hooks]
    transformers = [cached.transformer for cached in cache.transformers]
    hooked.update(transformers)

    def unhook() -> None:
        for one in put:
            one.take_away()
        hooked.difference_update(transformers)

    return unhook


def hooks_of(cache: PipelineCache, cached: CachedTransformer) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
    """What stands in for which methods of a transformer and its modules."""
    transformer, layout = cached.transformer, cached.layout
    calls: dict[nn.Module, Callable[..., Any]] = {transformer: TransformerHook(cache, cached)}
    for index, place in enumerate(layout.places):
        module = layout.module(index)
        calls[module] = (BlockHook if place.whole else BranchHook)(cached, index, place.block, module)
    if cache.selects:
        for block in chain(*layout.lists.values()):
            calls[block] = StreamHook(cached, block, calls.get(block, block.forward))
    hooks = [(module, "forward", call) for module, call in calls.items()]
    return [*hooks, (transformer, CONTEXT, context_hook(cached))] if hasattr(transformer, CONTEXT) else hooks
