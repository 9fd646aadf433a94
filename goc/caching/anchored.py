"""WHAT stands in, third part: f_hat = a_1 f_1 + a_2 f_2 + ... of a cell's last computed features, newest first.

No prediction is used for another one, so that none of their errors is, either.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from goc.caching.predictor import Cell, Predictor
from goc.models.dit import Terms


class Anchored(Predictor):
    """A predictor that is linear in the last computed features; of two at one time of the clock the newer counts.

    Args:
        mask, clock: as for Predictor.
        length: how many computed features it uses, at least 1; as many tensors are held for a cell.
        dtype: what features are kept in; None = as they come.
    """

    def __init__(
        self, mask: Tensor, length: int, clock: Sequence[float] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(mask, clock)
        self.length, self.dtype = length, dtype
        self.features: dict[Cell, list[tuple[int, Tensor]]] = {}  # with their steps, newest first

    @abstractmethod
    def coefficients(self, step: int, cell: Cell, computed: Sequence[int]) -> Sequence[float]:
        """a_1, a_2, ... in a cached step, for features of these computed steps, newest first."""

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        earlier = self.features.pop(cell, [])
        if not self.cached_later(step, cell):
            return
        if earlier and self.clock[earlier[0][0]] == self.clock[step]:
            earlier = earlier[1:]
        self.features[cell] = [(step, feature.to(self.dtype or feature.dtype)), *earlier[: self.length - 1]]

    def predict(self, step: int, cell: Cell) -> Terms:
        features = self.features[cell] if self.cached_later(step, cell) else self.features.pop(cell)
        weights = self.coefficients(step, cell, [computed for computed, _ in features])
        return [(weight, feature) for weight, (_, feature) in zip(weights, features, strict=False) if weight]

    def held(self) -> list[Tensor]:
        return [feature for features in self.features.values() for _, feature in features]


class AnchoredQueue(Anchored):
    """Gradient-Optimized Cache with gradients between computed features (as published: between used values).

    The published queue (arXiv 2503.05156, section 3.2) takes u1 - u2 for the change of one step. After m cached steps
    u1 is computed and u2 a prediction from m + 1 steps before: a jump is taken for the change of one step, and the
    queue diverges. Here, with the computed features f_1, f_2, ... at the clock c_1, c_2, ..., newest first, and c now,

        f_hat = f_1 + correct * sum_j w_j (f_j - f_{j+1}) / (c_j - c_{j+1}) (c - c_1)

    With one weight 1 that is linear extrapolation, exact at any distance where features move linearly. A cell with
    fewer computed features uses the gradients that it has; with one, this is plain reuse.

    Args: as for GradientQueue.
    """

    def __init__(
        self,
        mask: Tensor,
        weights: Sequence[float],
        correct: Tensor | None = None,
        clock: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(mask, len(weights) + 1, clock, dtype)
        self.weights = tuple(weights)
        correct = torch.ones_like(mask) if correct is None else correct
        self.correct: list[list[list[bool]]] = correct.tolist()

    def coefficients(self, step: int, cell: Cell, computed: Sequence[int]) -> list[float]:
        coefficients = [1.0] + [0.0] * (len(computed) - 1)
        if self.correct[step][cell[0]][cell[1]]:
            moved = self.clock[step] - self.clock[computed[0]]
            for j in range(len(computed) - 1):
                ahead = self.weights[j] * moved / (self.clock[computed[j]] - self.clock[computed[j + 1]])
                coefficients[j] += ahead
                coefficients[j + 1] -= ahead
        return coefficients


class Learned(Anchored):
    """Weights for each cached step, the same for all cells, trained end to end (goc train weights).

    Args:
        mask: a schedule of whole steps, bool [evaluations, blocks, 2].
        weights: float [steps, K], for the last K computed features, newest first; rows of computed steps are not read.
    """

    def __init__(self, mask: Tensor, weights: Tensor) -> None:
        super().__init__(mask, weights.shape[1])
        self.weights: list[list[float]] = weights.tolist()

    def coefficients(self, step: int, cell: Cell, computed: Sequence[int]) -> list[float]:
        return self.weights[step]
