"""A transformer's forward pass in which a cache works, and what is kept from one pass to the next."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_not
from typing import Any

import torch
from torch import Tensor

from goc.caching.cache import AdaptiveCache, StepCache
from goc.caching.predictor import evaluate
from goc.models.seen import Seen
from goc.pipelines.operations import Key, Operations
from goc.pipelines.structure import OUTPUTS, Layout, StructureError

Inputs = tuple[Tensor | None, ...]
Cell = tuple[int, int]  # of a cache's mask: a place, and one of the tensors that it gives in a pass


class InPlaceError(StructureError):
    """Others change tensors in place that a cache holds; with copies of them it works."""


def versions(tensors: Iterable[Tensor | None]) -> list[float]:
    """Numbers of which one changes when a tensor is changed in place."""
    return [0 if tensor is None else version(tensor) for tensor in tensors]


def version(tensor: Tensor) -> float:
    """What torch counts; in its inference mode, where it does not, the sum of the values, 0 if that is no number."""
    if not tensor.is_inference():
        return tensor._version
    total = tensor.sum(dtype=torch.float64).item()
    return total if math.isfinite(total) else 0.0


@dataclass(frozen=True)
class Form:
    """What a module gave: a tensor, or a tuple. cells: of its tensors, None = no tensor."""

    cells: tuple[Cell | None, ...]
    is_tuple: bool


@dataclass(frozen=True)
class Start:
    """What a span of blocks does to the arguments that go through its first block.

    added: the cell of what is added to each argument; None: nothing. given: of each, whether the cell is its new value
    instead. free: cells of outputs that go on from no argument, by their number in the block's tuple.
    """

    cells: tuple[Cell | None, ...]
    is_value: tuple[bool, ...]
    free: Mapping[int, Cell]


@dataclass
class Stream:
    """The forward passes that share a cache, one in each step: conditional ones, say.

    cache: masks and features of one batch. shapes: of what the transformer is given. name: of the calls. sample: whose
    they are, where each has a cache of its own. A key is a place, and which of its calls in a pass it is: a module may
    be called once for the image, and once more for the text.
    """

    cache: StepCache
    shapes: object
    name: str = ""
    sample: int | None = None
    last: int = -1
    forms: dict[Key, Form] = field(default_factory=dict)  # of branches
    orders: dict[Key, tuple[tuple[int | None, ...], bool]] = field(default_factory=dict)  # of blocks, and if a tuple
    starts: dict[Key, Start] = field(default_factory=dict)  # of spans
    inside: set[Key] = field(default_factory=set)  # blocks of a span after its first
    formats: dict[Cell, torch.dtype] = field(default_factory=dict)
    template: Any = None  # an output of the transformer without its prediction, for caches that skip all of it

    def value(self, cell: Cell) -> Tensor | None:
        """What stands in for a feature that is cached; None: compute it."""
        terms = self.cache.lookup(*cell)
        return None if terms is None else evaluate(terms).to(self.formats[cell])

    def give(self, cell: Cell, feature: Tensor) -> None:
        """Hand a computed feature over, that nobody else uses any more."""
        self.formats[cell] = feature.dtype
        self.cache.store(*cell, feature)


@dataclass
class Span:
    """Blocks that run, each given just what the one before gave: where they began, and what came out so far.

    values: the outputs, or copies of them. free: outputs of a block that go on from nothing it was given, by their
    number; it is then a span of its own.
    """

    key: Key
    inputs: Inputs
    outputs: Inputs = ()
    values: Inputs = ()
    free: Mapping[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began, self.came = versions(self.inputs), list[float]()

    def advance(self, outputs: Inputs, values: Inputs) -> None:
        """Another of its blocks was computed."""
        self.outputs, self.values, self.came = outputs, values, versions(outputs)

    def was_changed(self) -> bool:
        """Whether what it was given or gave was changed in place since."""
        return versions(self.inputs) != self.began or versions(self.outputs) != self.came


class ForwardPass:
    """One forward pass of a transformer in which a cache works: what its hooks share."""

    def __init__(
        self, stream: Stream, layout: Layout, operations: Operations, latents: Tensor, copies: bool = False
    ) -> None:
        self.stream, self.layout, self.operations, self.latents = stream, layout, operations, latents
        self.copies = copies  # whether what goes in and comes out is copied, as others change it in place
        self.first_inputs: Inputs = ()  # of the first block
        self.blocks = 0  # that were called
        # nothing is kept yet, so all is computed
        self.fresh = not (stream.forms or stream.orders or stream.template is not None)
        self.calls: Counter[int] = Counter()  # of each place
        self.cells: Counter[int] = Counter()  # of each place that were given away
        self.pending: list[tuple[Cell, Tensor, list[float]]] = []  # computed, and perhaps still in use
        self.block = -1
        self.decided = False  # whether the cache was asked if it skips this step
        self.skipping = False  # whether the block before was skipped, and so are those of its span after it
        self.span: Span | None = None
        self.computed = self.cached = 0  # places
        self.shares: list[float] = []  # of tokens computed after all, in cached feed-forwards
        self.received: dict[int, Sequence[Tensor]] = {}  # attention, of a block's tokens of each kind
        self.streams: dict[int, Tensor] = {}  # what came out of the last blocks, by kind
        self.saved = 0.0  # operations

    @property
    def of_network(self) -> bool:
        """Whether the whole transformer is skipped or computed, and nothing inside of it is looked at."""
        cache = self.stream.cache
        return isinstance(cache, AdaptiveCache) and cache.decision.of_network

    def decide(self, modulated_input: Callable[[], Tensor], hidden: Tensor | None = None) -> None:
        """Have an adaptive cache decide, once; hidden: what goes into the first block that may be skipped."""
        if not self.decided:
            after = self.latents if hidden is None else hidden
            before = next((x for x in self.first_inputs if x is not None), after)
            self.decide_by(Seen(self.latents, before, after, modulated_input))

    def decide_by(self, seen: Seen) -> None:
        """Have an adaptive cache decide by what is seen."""
        self.decided = True
        self.stream.cache.decide(seen)

    def enter(self, place: int) -> Key:
        """A place is called: the key of this call."""
        self.calls[place] += 1
        return place, self.calls[place] - 1

    def skipped(self, key: Key, share: float | None = None) -> None:
        """A module was cached; share: of its tokens that were computed after all, where some could be."""
        self.cached += 1
        self.shares += [] if share is None else [share]
        self.saved += (1 - (share or 0.0)) * self.operations.costs.get(key, 0.0)

    def done(self, key: Key) -> None:
        """A module was computed."""
        self.computed += 1
        self.operations.end_module(key)

    def new_cells(self, place: int, count: int) -> Sequence[Cell | None]:
        """Cells for more tensors of a place; None where it has more than a mask has room for."""
        first = self.cells[place]
        self.cells[place] += count
        return [(place, i) if i < OUTPUTS else None for i in range(first, first + count)]

    def settle(self) -> None:
        """Hand over what was computed; caches change features in place, so their block must have used them."""
        for (place, _), feature, before in self.pending:
            if versions([feature]) != before:
                raise InPlaceError(f"{self.layout.places[place].name}: what it gives is changed in place")
        for cell, feature, _ in self.pending:
            self.stream.give(cell, feature)
        self.pending.clear()

    def open(self, key: Key, inputs: Inputs) -> None:
        """A span of blocks begins; the one before is closed."""
        self.close()
        if self.layout.site == "stack" and not self.computed:  # what was kept of the last pass is of no use any more
            self.stream.starts.clear()
            self.stream.inside.clear()
        self.span = Span(key, self.kept(inputs))

    def value(self, cell: Cell) -> Tensor | None:
        """What stands in for a feature that is cached; None: compute it."""
        value = self.stream.value(cell)
        return value.clone() if self.copies and value is not None else value

    def kept(self, tensors: Inputs) -> Inputs:
        """Tensors as they are now, also later."""
        return tuple(None if x is None else x.clone() for x in tensors) if self.copies else tensors

    def continues(self, key: Key, inputs: Inputs) -> bool:
        """Whether a block is given just what the open span's last one gave, and so is of that span."""
        span = self.span
        if span is None or len(inputs) != len(span.outputs) or any(map(is_not, inputs, span.outputs)):
            return False
        if self.copies and span.was_changed():  # something was added in between
            return False
        self._check(span)
        self.stream.starts.pop(key, None)
        self.stream.inside.add(key)
        return True

    def advance(self, key: Key, inputs: Inputs, outputs: Inputs, free: Mapping[int, Tensor]) -> None:
        """A block of the open span was computed; free: its outputs that go on from none of its inputs."""
        if free and self.span is not None and self.span.key != key:
            self.stream.inside.discard(key)
            self.open(key, inputs)
        assert self.span is not None
        self.span.advance(outputs, self.kept(outputs))
        self.span.free = free

    def _check(self, span: Span) -> None:
        if span.was_changed() and not self.copies:
            raise InPlaceError(f"{self.layout.places[span.key[0]].name}: what goes in or comes out is changed in place")

    def close(self) -> None:
        """Hand over what the blocks of the open span did."""
        span, self.span = self.span, None
        if span is None:
            return
        self._check(span)
        place = span.key[0]
        cells = list(self.new_cells(place, len(span.inputs)))
        free = dict(zip(span.free, self.new_cells(place, len(span.free)), strict=True))
        is_value = [False] * len(cells)
        for i, (before, after) in enumerate(zip(span.inputs, span.values, strict=True)):
            if before is None or after is None:
                cells[i] = None
                continue
            is_value[i] = not can_be_added(before, after)
            if (cell := cells[i]) is not None:
                self.stream.give(cell, after.clone() if is_value[i] else after - before)
        for i, cell in free.items():
            if cell is not None:
                self.stream.give(cell, span.free[i].clone())
        if None not in free.values() and self.cells[place] <= OUTPUTS:
            kept = {i: cell for i, cell in free.items() if cell is not None}
            self.stream.starts[span.key] = Start(tuple(cells), tuple(is_value), kept)

    def end(self) -> None:
        """The pass is over."""
        self.close()
        self.settle()
        missed = [key for key in self.stream.starts if key[1] >= self.calls[key[0]]]
        if missed and self.cached and self.layout.site == "stack":
            name = self.layout.places[missed[0][0]].name
            raise StructureError(f"{name}: is not called in every step; use site='branch', or blocks=[...] without it")


def can_be_added(before: Tensor, after: Tensor) -> bool:
    """Whether `after` is `before` and something more, by their shapes."""
    return before.ndim == after.ndim and all(n in (1, m) for n, m in zip(before.shape, after.shape, strict=True))
