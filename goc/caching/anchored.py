"""WHAT stands in, third part: f_hat = a_1 f_1 + a_2 f_2 + ... of a cell's last computed features, newest first.

No prediction is used for another one, so that none of their errors is, either.
"""

from abc import abstractmethod
from collections.abc import Sequence
from math import copysign, inf, prod

import torch
from torch import Tensor

from goc.caching.predictor import Cell, Predictor
from goc.models.network import Terms
from goc.models.packed import Value


class Anchored(Predictor):
    """A predictor that is linear in the last computed features; of two at one time of the clock the newer counts.

    Args:
        mask, clock, dtype: as for Predictor.
        length: how many computed features it uses, at least 1; as many tensors are held for a cell.
    """

    def __init__(
        self, mask: Tensor, length: int, clock: Sequence[float] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(mask, clock, dtype)
        self.length = length
        self.features: dict[Cell, list[tuple[int, Value]]] = {}  # with their steps, newest first

    @abstractmethod
    def coefficients(self, step: int, cell: Cell, computed: Sequence[int]) -> Sequence[float]:
        """a_1, a_2, ... in a cached step, for features of these computed steps, newest first."""

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        earlier = self.features.pop(cell, [])
        if not self.cached_later(step, cell):
            return
        if earlier and self.clock[earlier[0][0]] == self.clock[step]:
            earlier = earlier[1:]
        self.features[cell] = [(step, self.kept(feature)), *earlier[: self.length - 1]]

    def predict(self, step: int, cell: Cell) -> Terms:
        features = self.features[cell] if self.cached_later(step, cell) else self.features.pop(cell)
        weights = self.coefficients(step, cell, [computed for computed, _ in features])
        return [(weight, feature) for weight, (_, feature) in zip(weights, features, strict=False) if weight]

    def held(self) -> list[Value]:
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
    """Weights for each cached step, the same for all cells or of each, trained end to end (goc train).

    Args:
        mask: a schedule of whole steps, bool [evaluations, blocks, 2].
        weights: float [steps, K], for the last K computed features, newest first; of each cell [steps, blocks, 2, K].
            Those of computed steps are not read.
    """

    def __init__(self, mask: Tensor, weights: Tensor) -> None:
        super().__init__(mask, weights.shape[-1])
        of_each = weights if weights.dim() == 4 else weights[:, None, None].expand(*mask.shape, -1)
        self.weights: list[list[list[list[float]]]] = of_each.tolist()

    def coefficients(self, step: int, cell: Cell, computed: Sequence[int]) -> list[float]:
        block, branch = cell
        return self.weights[step][block][branch]


class Barycentric(Anchored):
    """Barycentric extrapolation through the last computed features (ChebBooster, arXiv 2608.23429, eq. 7 to 12).

    With the features f_1, f_2, ... at the clock c_1, c_2, ..., newest first, and c now,

        f_hat = sum_j u_j f_j / sum_j u_j,    u_j = v_j |v_j|^(decay - 1),    v_j = rho_j / (c - c_j)

    so that the weights sum to one, and with one feature this is plain reuse. rho "chebyshev" has alternating signs, and
    one half at both ends. It would give a polynomial at Chebyshev's points of the second kind, which computed steps are
    not: f_hat is a rational function of c, exact for lines (of three equidistant features the parabola), and may have
    a pole. decay: BaryCache's (arXiv 2608.28670, its code), 1 = none.

    Args:
        mask, clock, length: as for Anchored.
        rho: "chebyshev", or "lagrange": 1 / prod_k (c_j - c_k), the polynomial through the features.
        decay: in (0, 1]; lines are exact with 1 alone.
    """

    def __init__(
        self, mask: Tensor, length: int, rho: str, decay: float = 1.0, clock: Sequence[float] | None = None
    ) -> None:
        super().__init__(mask, length, clock)
        self.rho, self.decay = rho, decay

    def coefficients(self, step: int, cell: Cell, computed: Sequence[int]) -> list[float]:
        now, times = self.clock[step], [self.clock[i] for i in computed]
        if now == times[0]:
            return [1.0]
        shares = []
        for j, time in enumerate(times):
            if self.rho == "lagrange":
                rho = 1 / prod(time - other for other in times if other != time)
            else:
                rho = (-1) ** j * (0.5 if j in (0, len(times) - 1) else 1.0)
            value = rho / (now - time)
            shares.append(copysign(abs(value) ** self.decay, value))
        total = sum(shares)
        pole = abs(total) <= 1e-9 * max(map(abs, shares))
        return [copysign(inf, share) if pole else share / total for share in shares]


class Causal(Anchored):
    """Weights on the values used in all steps before, predictions among them, the same for all cells (L2P).

    f_hat_i = sum_j W[i, j] u_j over j < i (arXiv 2604.26365; in its code, too, predictions enter the history). All of
    it is linear, so that a value is a combination of the computed features, all of which are held.

    Args:
        mask: bool [evaluations, blocks, 2].
        weights: W, float [evaluations, evaluations]; of a row only what is before the diagonal is read.
    """

    def __init__(self, mask: Tensor, weights: Tensor) -> None:
        super().__init__(mask, len(mask))
        self.weights = weights.double()
        self.rows: dict[tuple[int, ...], list[float]] = {}

    def coefficients(self, step: int, cell: Cell, computed: Sequence[int]) -> list[float]:
        key = (step, *computed)
        if key not in self.rows:
            values = torch.eye(step + 1, dtype=torch.float64)  # of each step, by computed features
            for i in range(step + 1):
                if i not in computed:
                    values[i] = self.weights[i, :i] @ values[:i]
            self.rows[key] = values[step, list(computed)].tolist()
        return self.rows[key]


def fit_causal(products: Tensor, iterations: int = 201, rate: float = 0.01) -> Tensor:
    """Weights of `Causal` that predict each step's feature from all before it, float64 [steps, steps].

    Minimised is the mean squared error over steps, samples and cells, from plain reuse with Adam at a constant rate, as
    L2P's code does. products: inner products of every two steps' features, [steps, steps, ...], which is all that the
    error depends on.
    """
    gram = products.double().flatten(2).sum(dim=2)
    gram = gram / gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    before = torch.ones_like(gram).tril(-1)
    weights = torch.eye(len(gram), dtype=gram.dtype).roll(1, dims=0) * before
    optimizer = torch.optim.Adam([weights], lr=rate)
    for _ in range(iterations):
        weights.grad = 2 * (weights @ gram - gram) * before / len(gram)
        optimizer.step()
    return weights
