"""Expansions about the last computed feature: TaylorSeer. What is predicted is computed alone.

Slopes are taken against a clock, as in predictor.py; of two features computed at one time the newer counts, and a
prediction over no time is plain reuse.
"""

from collections.abc import Sequence
from math import factorial

import torch
from torch import Tensor

from goc.caching.predictor import Cell, Predictor
from goc.models.dit import Terms


class Expansion(Predictor):
    """Keeps what it needs of a cell as long as the cell is cached in a later step.

    Args:
        mask: the schedule, bool [steps, blocks, 2].
        clock: a number for each step, monotonic; None = the step index.
    """

    def __init__(self, mask: Tensor, clock: Sequence[float] | None = None) -> None:
        super().__init__(mask)
        self.clock = range(self.steps) if clock is None else clock
        later = torch.cat([mask[1:], torch.zeros_like(mask[:1])]).flip(0).cumsum(0).flip(0) > 0
        self._cached_later: list[list[list[bool]]] = later.tolist()

    def cached_later(self, step: int, cell: Cell) -> bool:
        """Whether the cell is cached in any step after this one."""
        return self._cached_later[step][cell[0]][cell[1]]


class Taylor(Expansion):
    """Taylor expansion of the computed features (TaylorSeer, arXiv 2503.06923, section 3.3).

    At each computed step the divided differences F_0 = f, F_{k+1} = (F_k - F_k at the computed step before) / distance
    are formed, up to the order and as far as there are computed features. A cached cell at distance x from the last
    computed step uses sum_k F_k x^k / k!.

    Args:
        mask: the schedule, bool [steps, blocks, 2].
        order: highest derivative, >= 0 (0 is plain reuse).
        clock: a number for each step, monotonic; None = the step index.
    """

    def __init__(self, mask: Tensor, order: int, clock: Sequence[float] | None = None) -> None:
        super().__init__(mask, clock)
        self.order = order
        self.differences: dict[Cell, list[Tensor]] = {}
        self.computed: dict[Cell, int] = {}  # the step they were formed in

    def factors(self, x: float) -> list[float]:
        """What the differences 0..order are multiplied with at distance x."""
        return [x**k / factorial(k) for k in range(self.order + 1)]

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        before = self.differences.pop(cell, [])
        if not self.cached_later(step, cell):
            return
        differences = [feature]
        distance = self.clock[step] - self.clock[self.computed[cell]] if before else 0
        if distance == 0:
            differences += before[1:]
        else:
            for older in before[: self.order]:  # each becomes the next higher difference, in place
                differences.append(older.sub_(differences[-1]).div_(-distance))
        self.differences[cell], self.computed[cell] = differences, step

    def predict(self, step: int, cell: Cell) -> Terms:
        differences = self.differences[cell]
        distance = self.clock[step] - self.clock[self.computed[cell]]
        if not self.cached_later(step, cell):
            del self.differences[cell]
        return list(zip(self.factors(distance) if distance else [1.0], differences, strict=False))

    def held(self) -> list[Tensor]:
        return [difference for differences in self.differences.values() for difference in differences]
