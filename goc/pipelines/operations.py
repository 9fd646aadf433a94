"""Multiply-accumulate operations (MACs) of a transformer's modules, counted in one call for each input shape."""

import contextlib
import sys
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode

from goc.pipelines.hooks.replaced import replaced

FLEX = "torch.nn.attention.flex_attention"
Key = tuple[int, int]  # a place, and which of its calls in a forward pass
WHOLE: Key = (-1, 0)  # the transformer


class Operations:
    """What each module of a transformer costs; nothing is counted where one is compiled."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.known: dict[Hashable, dict[Key, float]] = {}  # by the shapes of the inputs
        self.costs: dict[Key, float] = {}  # in the call under way
        self.wanted = True  # counting makes a call slower
        self.assumed: dict[Key, float] = {}  # of calls that are not counted: what is asked for is their ratio
        self.shapes: Hashable = None
        self.counter: FlopCounterMode | None = None
        self.before = 0
        self.of_flex = 0  # operations of flex attention
        self.entered = contextlib.ExitStack()

    def begin(self, shapes: Hashable, computes_all: bool) -> None:
        """A call of the transformer with inputs of these shapes; it is counted if it computes all."""
        self.shapes = shapes
        self.costs = self.known.get(shapes, self.assumed)
        if self.wanted and shapes not in self.known and computes_all and not self._compiled():
            self.counter, self.of_flex = FlopCounterMode(display=False), 0
            if (flex := sys.modules.get(FLEX)) is not None:
                self.entered.enter_context(replaced(flex, "flex_attention", self._flex_attention))
            self.entered.enter_context(self.counter)

    def _total(self) -> int:
        return 0 if self.counter is None else self.counter.get_total_flops() + self.of_flex

    def _flex_attention(self, original: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *more: Any,
                        **options: Any) -> Any:  # fmt: skip
        """Flex attention, which torch cannot count and fails at: its products are counted as if nothing was masked."""
        self.of_flex += 2 * query.numel() * key.shape[-2] * (1 + value.shape[-1] // query.shape[-1])
        with _disable_current_modes():
            return original(query, key, value, *more, **options)

    def _compiled(self) -> bool:
        return any(module._compiled_call_impl is not None for module in self.transformer.modules())

    @property
    def counted(self) -> dict[Key, float]:
        """What was counted last."""
        return next(reversed(self.known.values()), {})

    @property
    def whole(self) -> float:
        """Of the transformer."""
        return self.costs.get(WHOLE, 0.0)

    def begin_module(self) -> None:
        """A module is computed next."""
        self.before = self._total()

    def end_module(self, key: Key) -> None:
        """The module was computed."""
        if self.counter is not None:
            self.costs[key] = (self._total() - self.before) / 2

    def end(self) -> None:
        """The call is over."""
        if self.counter is not None:
            self.costs[WHOLE] = self._total() / 2
            self.known[self.shapes] = self.costs
            self.abandon()

    def abandon(self) -> None:
        """The call did not come to its end: what was counted of it is not kept."""
        if self.counter is not None:
            self.entered.close()
            self.counter = None
