"""WHAT stands in for a cached feature: plain reuse, or the gradient queue of Gradient-Optimized Cache.

A predictor holds tensors for the cells (block, branch) of one batch while it is sampled. It knows the schedule
beforehand (where a cell may be cached), and so it holds a tensor only as long as a later cached step may need it.

Changes are taken against a clock: the step index as published, or any other number that moves with the steps, such as
the log signal-to-noise ratio.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from copy import deepcopy
from functools import cached_property
from itertools import pairwise
from math import isclose
from typing import Self

import torch
from torch import Tensor

from goc.models.network import Terms
from goc.models.packed import FLOAT8, Value, packed, unpacked
from goc.models.seen import Seen

Cell = tuple[int, int]


def combine(parts: Iterable[tuple[float, Terms]]) -> Terms:
    """The weighted sum of some values, as terms: each tensor once, and none with weight zero."""
    total: dict[int, tuple[float, Value]] = {}
    for weight, value in parts:
        for coefficient, tensor in value:
            before, _ = total.get(id(tensor), (0.0, tensor))
            total[id(tensor)] = before + weight * coefficient, tensor
    return [(coefficient, tensor) for coefficient, tensor in total.values() if coefficient]


def evaluate(value: Terms, out: Value | None = None) -> Tensor:
    """The sum of a value's terms; `out` is one of its tensors, which is then overwritten with it.

    With a packed tensor among them the sum is in float32, and nothing is overwritten.
    """
    tensors = [(coefficient, tensor) for coefficient, tensor in value if isinstance(tensor, Tensor)]
    if len(tensors) < len(value):
        out, tensors = None, [(coefficient, unpacked(tensor).float()) for coefficient, tensor in value]
    first, *others = sorted(tensors, key=lambda term: term[1] is not out)
    coefficient, total = first
    if len(others) == 1 and isclose(coefficient + others[0][0], 1.0):  # total + weight (other - total), in one pass
        weight, other = others[0]
        return total.lerp(other, weight) if out is None else total.lerp_(other, weight)
    if coefficient != 1:
        total = total * coefficient if out is None else total.mul_(coefficient)
    elif out is None and others:
        total = total.clone()
    for coefficient, tensor in others:
        total.add_(tensor, alpha=coefficient)
    return total


class Predictor(ABC):
    """Stands in for cached features.

    Args:
        mask: the schedule, bool [evaluations, blocks, 2]; True = cached.
        clock: a number for each step, monotonic; None = the step index.
        dtype: what values are kept in, float8 with a scale for each row; None = as they come.
    """

    def __init__(self, mask: Tensor, clock: Sequence[float] | None = None, dtype: torch.dtype | None = None) -> None:
        self.steps = len(mask)
        self.dtype = dtype
        self.mask = mask
        self.cached: list[list[list[bool]]] = mask.tolist()
        self.clock = range(self.steps) if clock is None else clock

    def kept(self, tensor: Tensor) -> Value:
        """A tensor [N, tokens, hidden] in the format that values are kept in."""
        return packed(tensor) if self.dtype == FLOAT8 else tensor.to(self.dtype or tensor.dtype)

    def cached_next(self, step: int, cell: Cell) -> bool:
        """Whether the cell is cached in the step after this one."""
        return step + 1 < self.steps and self.cached[step + 1][cell[0]][cell[1]]

    @cached_property
    def _last_cached(self) -> list[list[int]]:
        steps = torch.arange(self.steps)[:, None, None]
        return torch.where(self.mask, steps, -1).amax(dim=0).tolist()

    def cached_later(self, step: int, cell: Cell) -> bool:
        """Whether the cell is cached in any step after this one."""
        return step < self._last_cached[cell[0]][cell[1]]

    def see(self, step: int, seen: Seen) -> None:  # noqa: B027  (few look)
        """What the network shows before this step, where it is decided as it runs whether it is cached."""

    @abstractmethod
    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        """Take over the feature [N, tokens, hidden] computed (and already used) in this step."""

    @abstractmethod
    def predict(self, step: int, cell: Cell) -> Terms:
        """The value to use in this cached step, as terms of tensors [N, tokens, hidden], none of which is computed now.

        The caller must not change the tensors; they stay as they are until the cell's next feature is stored.
        """

    def newest(self, cell: Cell) -> Tensor:
        """The tensor [N, tokens, hidden] into which tokens of a cached cell go that are computed after all.

        Only of predictors that can take some tokens of a feature, and keep it in no float8.
        """
        raise NotImplementedError

    @abstractmethod
    def held(self) -> list[Value]:
        """The tensors held now, each once."""

    def state(self) -> Hashable:
        """Equal for two predictors of one kind and mask that differ in nothing but the values of what they hold.

        None: that is not known; they are, if they stored in the same steps.
        """
        return None

    def holding(self, tensors: Sequence[Value]) -> Self:
        """The same with other tensors in place of `held`, of other rows."""
        known: dict[int, object] = {id(old): new for old, new in zip(self.held(), tensors, strict=True)}
        return deepcopy(self, known | {id(same): same for same in (self.mask, self.cached, self.clock)})


class Reuse(Predictor):
    """The feature of the last computed step, unchanged (FORA, arXiv 2407.01425)."""

    def __init__(self, mask: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__(mask, dtype=dtype)
        self.feature: dict[Cell, Value] = {}

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        if self.cached_next(step, cell):
            self.feature[cell] = self.kept(feature)

    def predict(self, step: int, cell: Cell) -> Terms:
        return [(1.0, self.feature[cell] if self.cached_next(step, cell) else self.feature.pop(cell))]

    def newest(self, cell: Cell) -> Tensor:
        feature = self.feature[cell]
        assert isinstance(feature, Tensor)  # or a selection is refused
        return feature

    def held(self) -> list[Value]:
        return list(self.feature.values())

    def state(self) -> Hashable:
        return tuple(self.feature)


class GradientQueue(Predictor):
    """Cached Gradient Propagation (GOC, arXiv 2503.05156, section 3.2).

    With u1, u2, ... the values *used* in a cell in the past steps, newest first (computed, or predicted where the
    cell was cached), and c1, c2, ... the clock at those steps, c0 now, a cached cell uses

        u1 + correct * sum_j w_j (u_j - u_{j+1}) (c0 - c1) / (c_j - c_{j+1}).

    With the step index as the clock the last factor is 1. A cell with fewer values than the queue asks for uses the
    gradients it has; with none, this is plain reuse.

    All of this is linear, so in a cached step nothing is computed: values are kept as terms of a few tensors. When a
    feature is stored, the next prediction and the used values that later ones need become tensors, in place where that
    is possible. With one weight and no two cached steps in a row, that leaves ONE tensor per cell.

    Of two steps at one time of the clock (a solver's two evaluations), the newer value takes the older one's place.

    Args:
        mask: the schedule, bool [evaluations, blocks, 2].
        weights: w_1, w_2, ... (the paper uses one).
        correct: bool [evaluations, blocks, 2], where the correction is on; None = everywhere.
        clock, dtype: as for Predictor.
    """

    def __init__(
        self,
        mask: Tensor,
        weights: Sequence[float],
        correct: Tensor | None = None,
        clock: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(mask, clock, dtype)
        correct = torch.ones_like(mask) if correct is None else correct
        self.weights = tuple(weights)
        self.correct: list[list[list[bool]]] = correct.tolist()
        self.replaces = [step > 0 and self.clock[step] == self.clock[step - 1] for step in range(self.steps)]
        self.times = self._distinct_times()
        self.keep = self._values_to_keep(mask & correct)
        self.used: dict[Cell, list[Terms]] = {}
        self.next: dict[Cell, Terms] = {}

    def _values_to_keep(self, corrected: Tensor) -> list[list[list[int]]]:
        """How many of the newest used values later predictions still need, after each step and for each cell.

        The prediction for step n is known at the end of step n - 1, from the len(weights) + 1 values up to then.
        """
        keep = torch.zeros(corrected.shape, dtype=torch.long)
        for step in reversed(range(self.steps - 2)):
            added = 0 if self.replaces[step + 1] else 1  # values that the next step adds to those kept
            needed = corrected[step + 2].long() * (len(self.weights) + 1 - added)
            keep[step] = torch.maximum(needed, keep[step + 1] - added)
        return keep.tolist()

    def _distinct_times(self) -> list[list[float]]:
        """The clock at each step and at as many before it as the queue reaches back, newest first, each time once."""
        times: list[list[float]] = []
        for step in range(self.steps):
            earlier = times[-1][self.replaces[step] :] if times else []
            times.append([self.clock[step], *earlier[: len(self.weights)]])
        return times

    def _advance(self, step: int, cell: Cell, value: Terms) -> None:
        """Enter the value used in this step into the queue, and predict the next step's if that may be cached."""
        block, branch = cell
        values = [value, *self.used.pop(cell, [])[self.replaces[step] :]]
        if self.cached_next(step, cell):
            gradients = values[: len(self.weights) + 1] if self.correct[step + 1][block][branch] else []
            moved, times = self.clock[step + 1] - self.clock[step], self.times[step]
            parts = [(1.0, value)]
            for j, (newer, older) in enumerate(pairwise(gradients)):
                weight = self.weights[j] * moved / (times[j] - times[j + 1])
                parts += [(weight, newer), (-weight, older)]
            self.next[cell] = combine(parts)
        if kept := self.keep[step][block][branch]:
            self.used[cell] = values[:kept]

    def _settle(self, cell: Cell) -> None:
        """Make the next prediction and each used value one tensor, in place of one that no other value needs.

        In float8 they are rounded after that, once: a prediction is made of the feature as it was computed.
        """
        values = [*self.used.get(cell, [])]
        if cell in self.next:
            values.insert(0, self.next[cell])
        for index, value in enumerate(values):
            if len(value) > 1 or value[0][0] != 1:
                needed = {id(tensor) for other in values if other is not value for _, tensor in other}
                free = next((tensor for _, tensor in value if id(tensor) not in needed), None)
                values[index] = [(1.0, evaluate(value, free))]
        if self.dtype == FLOAT8:
            kept = {id(tensor): self.kept(tensor) for ((_, tensor),) in values if isinstance(tensor, Tensor)}
            values = [[(1.0, kept.get(id(tensor), tensor))] for ((_, tensor),) in values]
        if cell in self.next:
            self.next[cell] = values.pop(0)
        if values:
            self.used[cell] = values

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        self.next.pop(cell, None)  # an adaptive cache may compute what could have been cached
        self._advance(step, cell, [(1.0, feature if self.dtype == FLOAT8 else self.kept(feature))])
        self._settle(cell)

    def predict(self, step: int, cell: Cell) -> Terms:
        value = self.next.pop(cell)
        self._advance(step, cell, value)
        return value

    def held(self) -> list[Value]:
        values = [*self.next.values(), *(value for used in self.used.values() for value in used)]
        return list({id(tensor): tensor for value in values for _, tensor in value}.values())
