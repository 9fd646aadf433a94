"""WHAT stands in for a cached feature: plain reuse, the gradient queue of Gradient-Optimized Cache, or Taylor.

A predictor holds tensors for the cells (block, branch) of one batch while it is sampled. It knows the schedule
beforehand (where a cell may be cached), and so it holds a tensor only as long as a later cached step may need it.

Changes are taken against a clock: the step index as published, or any other number that moves with the steps, such as
the log signal-to-noise ratio.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import factorial

import torch
from torch import Tensor

Cell = tuple[int, int]


class Predictor(ABC):
    """Stands in for cached features.

    Args:
        mask: the schedule, bool [steps, blocks, 2]; True = cached.
    """

    def __init__(self, mask: Tensor) -> None:
        self.steps = len(mask)
        self.cached: list[list[list[bool]]] = mask.tolist()

    def cached_next(self, step: int, cell: Cell) -> bool:
        """Whether the cell is cached in the step after this one."""
        return step + 1 < self.steps and self.cached[step + 1][cell[0]][cell[1]]

    @abstractmethod
    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        """Take over the feature [N, tokens, hidden] computed (and already used) in this step."""

    @abstractmethod
    def predict(self, step: int, cell: Cell) -> Tensor:
        """The value [N, tokens, hidden] to use in this cached step; the caller must not change it."""

    @abstractmethod
    def held(self) -> list[Tensor]:
        """The tensors held now, each once."""


class Reuse(Predictor):
    """The feature of the last computed step, unchanged (FORA, arXiv 2407.01425)."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask)
        self.feature: dict[Cell, Tensor] = {}

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        if self.cached_next(step, cell):
            self.feature[cell] = feature

    def predict(self, step: int, cell: Cell) -> Tensor:
        return self.feature[cell] if self.cached_next(step, cell) else self.feature.pop(cell)

    def held(self) -> list[Tensor]:
        return list(self.feature.values())


class GradientQueue(Predictor):
    """Cached Gradient Propagation (GOC, arXiv 2503.05156, section 3.2).

    With u1, u2, ... the values *used* in a cell in the past steps, newest first (computed, or predicted where the
    cell was cached), and c1, c2, ... the clock at those steps, c0 now, a cached cell uses

        u1 + correct * sum_j w_j (u_j - u_{j+1}) (c0 - c1) / (c_j - c_{j+1}).

    With the step index as the clock the last factor is 1. A cell with fewer values than the queue asks for uses the
    gradients it has; with none, this is plain reuse.

    The prediction is formed in the step before it is used, and every used value is dropped when no later prediction
    needs it. With one weight and no two cached steps in a row, that leaves ONE tensor per cell.

    Args:
        mask: the schedule, bool [steps, blocks, 2].
        weights: w_1, w_2, ... (the paper uses one).
        correct: bool [steps, blocks, 2], where the correction is on; None = everywhere.
        clock: a number for each step, strictly monotonic; None = the step index.
        dtype: what values are kept in; None = as they come.
    """

    def __init__(
        self,
        mask: Tensor,
        weights: Sequence[float],
        correct: Tensor | None = None,
        clock: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(mask)
        self.dtype = dtype
        correct = torch.ones_like(mask) if correct is None else correct
        self.weights = tuple(weights)
        self.correct: list[list[list[bool]]] = correct.tolist()
        self.clock = range(self.steps) if clock is None else clock
        self.keep = self._values_to_keep(mask & correct)
        self.used: dict[Cell, list[Tensor]] = {}
        self.next: dict[Cell, Tensor] = {}

    def _values_to_keep(self, corrected: Tensor) -> list[list[list[int]]]:
        """How many of the newest used values later predictions still need, after each step and for each cell.

        The prediction for step n is formed from the len(weights) + 1 values up to step n - 1, at the end of step
        n - 1, where the newest of them is at hand.
        """
        keep = torch.zeros(corrected.shape, dtype=torch.long)
        for step in reversed(range(self.steps - 2)):
            needed = corrected[step + 2].long() * len(self.weights)
            keep[step] = torch.maximum(needed, keep[step + 1] - 1)
        return keep.tolist()

    def _advance(self, step: int, cell: Cell, value: Tensor, owned: bool) -> None:
        """Enter the value used in this step into the queue, and form the next step's prediction if one is due.

        owned: the value is needed by nobody else, and may become the prediction in place.
        """
        block, branch = cell
        values = [value, *self.used.pop(cell, [])]
        kept = self.keep[step][block][branch]
        if self.cached_next(step, cell):
            gradients = values[: len(self.weights) + 1] if self.correct[step + 1][block][branch] else []
            prediction = value
            for j, (newer, older) in enumerate(pairwise(gradients)):
                moved = self.clock[step + 1] - self.clock[step]
                weight = self.weights[j] * moved / (self.clock[step - j] - self.clock[step - j - 1])
                if j == 0:  # u1 + w (u1 - u2), in one pass
                    lerp = value.lerp_ if owned and not kept else value.lerp
                    prediction = lerp(older, -weight)
                else:
                    prediction = torch.add(prediction, newer - older, alpha=weight)
            self.next[cell] = prediction
        if kept:
            self.used[cell] = values[:kept]

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        self._advance(step, cell, feature.to(self.dtype or feature.dtype), owned=True)

    def predict(self, step: int, cell: Cell) -> Tensor:
        value = self.next.pop(cell)
        self._advance(step, cell, value, owned=False)
        return value

    def held(self) -> list[Tensor]:
        tensors = [*self.next.values(), *(value for values in self.used.values() for value in values)]
        return list({id(tensor): tensor for tensor in tensors}.values())


class Taylor(Predictor):
    """Taylor expansion of the computed features (TaylorSeer, arXiv 2503.06923, section 3.3).

    At each computed step the divided differences F_0 = f, F_{k+1} = (F_k - F_k at the computed step before) / distance
    are formed, up to the order and as far as there are computed features. A cached cell at distance x from the last
    computed step uses sum_k F_k x^k / k!.

    Args:
        mask: the schedule, bool [steps, blocks, 2].
        order: highest derivative, >= 0 (0 is plain reuse).
        clock: a number for each step, strictly monotonic; None = the step index.
    """

    def __init__(self, mask: Tensor, order: int, clock: Sequence[float] | None = None) -> None:
        super().__init__(mask)
        self.order = order
        self.clock = range(self.steps) if clock is None else clock
        later = torch.cat([mask[1:], torch.zeros_like(mask[:1])]).flip(0).cumsum(0).flip(0) > 0
        self.cached_later: list[list[list[bool]]] = later.tolist()
        self.differences: dict[Cell, list[Tensor]] = {}
        self.computed: dict[Cell, int] = {}  # the step they were formed in

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        before = self.differences.pop(cell, [])
        if not self.cached_later[step][cell[0]][cell[1]]:
            return
        differences = [feature]
        for older in before[: self.order]:
            distance = self.clock[step] - self.clock[self.computed[cell]]
            differences.append((differences[-1] - older) / distance)
        self.differences[cell], self.computed[cell] = differences, step

    def predict(self, step: int, cell: Cell) -> Tensor:
        differences = self.differences[cell]
        distance = self.clock[step] - self.clock[self.computed[cell]]
        value = differences[0]
        for k, difference in enumerate(differences[1:], start=1):
            value = torch.add(value, difference, alpha=distance**k / factorial(k))
        if not self.cached_later[step][cell[0]][cell[1]]:
            del self.differences[cell]
        return value

    def held(self) -> list[Tensor]:
        return [difference for differences in self.differences.values() for difference in differences]
