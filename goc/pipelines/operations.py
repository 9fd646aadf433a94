"""Multiply-accumulate operations (MACs) of a transformer's modules, counted in one call for each input shape."""

from collections.abc import Hashable

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

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

    def begin(self, shapes: Hashable, computes_all: bool) -> None:
        """A call of the transformer with inputs of these shapes; it is counted if it computes all."""
        self.shapes = shapes
        self.costs = self.known.get(shapes, self.assumed)
        if self.wanted and shapes not in self.known and computes_all and not self._compiled():
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()

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
        self.before = self.counter.get_total_flops() if self.counter is not None else 0

    def end_module(self, key: Key) -> None:
        """The module was computed."""
        if self.counter is not None:
            self.costs[key] = (self.counter.get_total_flops() - self.before) / 2

    def end(self) -> None:
        """The call is over."""
        if self.counter is not None:
            self.costs[WHOLE] = self.counter.get_total_flops() / 2
            self.known[self.shapes] = self.costs
            self.abandon()

    def abandon(self) -> None:
        """The call did not come to its end: what was counted of it is not kept."""
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.counter = None
