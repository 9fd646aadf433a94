"""On a block whose place is what it, or the span of blocks that it begins, adds to what goes through it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from goc.pipelines.early import until
from goc.pipelines.forward_pass import ForwardPass, Inputs, Start
from goc.pipelines.hooks.carried import Order, argument, arguments_of, carried_of
from goc.pipelines.hooks.place import PlaceHook, tensors_of
from goc.pipelines.session import CachedTransformer, PipelineError
from goc.pipelines.structure import first_attention


class BlockHook(PlaceHook):
    """At site "stack" all blocks are cached at once: what a span of them adds is kept with its first block.

    A span goes on as long as each block is given just what the one before gave. Where something else is added in
    between (a ControlNet's residuals), the next one begins, so that it is added once in a cached step as well.
    """

    def __init__(self, cached: CachedTransformer, place: int, block: int, module: nn.Module) -> None:
        super().__init__(cached, place, block, module)
        self.chained = cached.layout.site == "stack"
        self.carried = carried_of(module)
        known = arguments_of(module)
        self.positions = [known.index(name) for name in self.carried.names]
        self.given: Inputs = ()

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        """The arguments that go through the block; None for one that is no tensor."""
        values = (argument(*at, args, kwargs) for at in zip(self.carried.names, self.positions, strict=True))
        return tuple(value if isinstance(value, Tensor) else None for value in values)

    def stand_in(self, under_way: ForwardPass, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        under_way.settle()
        stream, given = under_way.stream, self.inputs(args, kwargs)
        self.key = under_way.enter(self.place)
        first = stream.cache.first_blocks
        number, under_way.blocks = under_way.blocks, under_way.blocks + 1
        if number == 0:
            under_way.first_inputs = given if not first else tuple(None if x is None else x.clone() for x in given)
        self.looked_at = number < first
        if self.looked_at:
            self.given = given
            under_way.operations.begin_module()
            return None
        under_way.decide(lambda: modulated_input(self.module, lambda: self.original(*args, **kwargs)), given[0])
        begin = under_way.first_inputs if first and number == first and stream.cache.of_all else given
        start = stream.starts.get(self.key)
        if start is not None:
            values = [None if cell is None else under_way.value(cell) for cell in start.cells]
            free = {i: under_way.value(cell) for i, cell in start.free.items()}
            under_way.skipping = any(value is not None for value in (*values, *free.values()))
            if under_way.skipping:
                under_way.skipped(self.key)
                return self.arranged(under_way, advanced(begin, values, start), free)
        elif self.key not in stream.inside:
            under_way.skipping = False
        elif under_way.skipping:
            under_way.skipped(self.key)
            return self.arranged(under_way, list(given), {})
        self.given = given
        if not (self.chained and under_way.continues(self.key, given)):
            under_way.open(self.key, begin)
        under_way.operations.begin_module()
        return None

    def keep(self, under_way: ForwardPass, output: Any) -> None:
        outputs = tensors_of(output)
        order = tuple(None if x is None else i for x, i in zip(outputs, self.order(outputs), strict=True))
        under_way.stream.orders[self.key] = order, isinstance(output, tuple)
        if self.looked_at:
            self.given = ()
            under_way.done(self.key)
            return
        free = {i: x for i, (x, at) in enumerate(zip(outputs, order, strict=True)) if at is None and x is not None}
        at = {index: i for i, index in enumerate(order) if index is not None}
        going_on = tuple(outputs[at[i]] if i in at else None for i in range(len(self.given)))
        under_way.advance(self.key, self.given, going_on, free)
        if free or not self.chained:
            under_way.close()
        self.given = ()
        under_way.done(self.key)

    def order(self, outputs: tuple[Any, ...]) -> Order:
        """Which of the arguments each output goes on from: by their names; by their shapes, where these tell."""
        said = self.carried.orders.get(len(outputs))
        if said is not None:
            return said
        if len(outputs) == 1:
            return (0,)
        before, after = ([None if x is None else x.shape for x in tensors] for tensors in (self.given, outputs))
        return tuple(before.index(s) if before.count(s) == after.count(s) == 1 else None for s in after)

    def arranged(self, under_way: ForwardPass, values: list[Tensor | None], free: Mapping[int, Tensor | None]) -> Any:
        """Values for the arguments, and the outputs that go on from none, as the block would have given them."""
        order, is_tuple = under_way.stream.orders[self.key]
        outputs = tuple(free.get(i) if index is None else values[index] for i, index in enumerate(order))
        return outputs if is_tuple else outputs[0]


def advanced(given: Inputs, values: list[Tensor | None], start: Start) -> list[Tensor | None]:
    """What a span makes of its arguments: what is kept is added, or stands for them."""
    return [
        x if value is None or x is None else value if is_value else x + value
        for x, value, is_value in zip(given, values, start.is_value, strict=True)
    ]


def modulated_input(block: nn.Module, call: Callable[[], Any]) -> Tensor:
    """What a block gives its attention; nothing after that is computed."""
    inputs = list[Tensor]()

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(argument(arguments_of(module)[0], 0, args, kwargs))
        leave()

    with until() as leave, first_attention(block).register_forward_pre_hook(stop, with_kwargs=True):
        call()
    if not inputs:
        raise PipelineError(
            f"{type(block).__name__}: does not call its attention, whose input says whether a step is skipped"
        )
    return inputs[0]
