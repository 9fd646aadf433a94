"""On an attention or feed-forward module of a block: its output is the feature, or each tensor of its outputs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from goc.models.network import ATTENTION
from goc.pipelines.forward_pass import Form, ForwardPass, versions
from goc.pipelines.hooks.attention import received_in
from goc.pipelines.hooks.carried import argument, arguments_of
from goc.pipelines.hooks.place import PlaceHook, tensors_of
from goc.pipelines.session import CachedTransformer
from goc.pipelines.tokens import PlacesCache


class BranchHook(PlaceHook):
    """Each call of the module in a pass has features of its own: some are called for the image, then for the text.

    Of a cached feed-forward, a cache that selects tokens has these computed; it looks at a block's first attention.
    """

    def __init__(self, cached: CachedTransformer, place: int, block: int, module: nn.Module) -> None:
        super().__init__(cached, place, block, module)
        attentions = (i for i, at in enumerate(cached.layout.places) if at.block == block and ATTENTION in at.branches)
        self.is_looked_at = next(attentions, None) == place

    def stand_in(self, under_way: ForwardPass, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if under_way.block != self.block:
            under_way.settle()
            under_way.block = self.block
        under_way.decide(lambda: argument(arguments_of(self.module)[0], 0, args, kwargs))
        self.key = under_way.enter(self.place)
        form, cache = under_way.stream.forms.get(self.key), under_way.stream.cache
        share = self.compute_tokens(under_way, cache, args, kwargs) if isinstance(cache, PlacesCache) else None
        values = [] if form is None else [None if cell is None else under_way.value(cell) for cell in form.cells]
        if form is None or all(value is None for value in values):
            under_way.operations.begin_module()
            looks = self.is_looked_at and isinstance(cache, PlacesCache)
            self.watched = looks and cache.wants_attention(self.block)
            return None
        under_way.skipped(self.key, share)
        return tuple(values) if form.is_tuple else values[0]

    def compute_tokens(
        self, under_way: ForwardPass, cache: PlacesCache, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> float | None:
        """Compute the selected tokens of a cached feed-forward, into what is held.

        Their share of all; None: none could be selected.
        """
        place, call = self.key
        name = arguments_of(self.module)[0]
        x = argument(name, 0, args, kwargs)
        if place not in cache.ranks or not isinstance(x, Tensor):
            return None
        cache.shown(place, call, x.shape[1], under_way.received.get(self.block, ()))
        if self.key not in under_way.stream.forms:
            return None
        tokens = cache.selected(place, call)
        if tokens is None:
            return 0.0
        some = x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        given = ((), {**kwargs, name: some}) if name in kwargs else ((some, *args[1:]), kwargs)
        cache.refresh(place, call, tokens, self.original(*given[0], **given[1]))
        return tokens.shape[1] / x.shape[1]

    def look_into(self, under_way: ForwardPass, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        counts = under_way.operations.counter is not None
        output, under_way.received[self.block] = received_in(self.module, self.original, args, kwargs, counts)
        return output

    def keep(self, under_way: ForwardPass, output: Any) -> None:
        tensors = tensors_of(output)
        cells = under_way.new_cells(self.place, len(tensors))
        given = [(cell, x if isinstance(x, Tensor) else None) for cell, x in zip(cells, tensors, strict=True)]
        if all(cell is not None or x is None for cell, x in given):  # else the module is computed in every step
            kept = tuple(None if x is None else cell for cell, x in given)
            under_way.stream.forms[self.key] = Form(kept, isinstance(output, tuple))
            for cell, x in given:
                (feature,) = under_way.kept((x,))
                if cell is not None and feature is not None:
                    under_way.pending.append((cell, feature, versions([feature])))
        under_way.done(self.key)
