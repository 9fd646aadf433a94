"""WHAT stands in for a cached feature, second part: expansions about the last computed one (TaylorSeer, HiCache, FoCa).

Slopes are taken against a clock, as in predictor.py; of two features computed at one time the newer counts, and a
prediction over no time is plain reuse.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import copysign, factorial, inf

import torch
from torch import Tensor

from goc.caching.predictor import Cell, Predictor, combine, evaluate
from goc.models.network import Terms
from goc.models.packed import Value, unpacked

LARGEST = torch.finfo(torch.float32).max


class Taylor(Predictor):
    """Taylor expansion of the computed features (TaylorSeer, arXiv 2503.06923, section 3.3).

    At each computed step the divided differences F_0 = f, F_{k+1} = (F_k - F_k at the computed step before) / distance
    are formed, up to the order and as far as there are computed features. A cached cell at distance x from the last
    computed step uses sum_k F_k x^k / k!.

    Args:
        mask: the schedule, bool [evaluations, blocks, 2].
        order: highest derivative, >= 0 (0 is plain reuse).
        clock, dtype: as for Predictor.
    """

    def __init__(
        self, mask: Tensor, order: int, clock: Sequence[float] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(mask, clock, dtype)
        self.order = min(order, len(mask) - 1)  # there are no more differences than features before the last step
        self.differences: dict[Cell, list[Value]] = {}
        self.computed: dict[Cell, int] = {}  # the step they were formed in

    def factors(self, x: float) -> list[float]:
        """What the differences 0..order are multiplied with at distance x."""
        return [x**k / factorial(k) for k in range(self.order + 1)]

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        before = [unpacked(difference) for difference in self.differences.pop(cell, [])]
        if not self.cached_later(step, cell):
            return
        differences = [feature]
        distance = self.clock[step] - self.clock[self.computed[cell]] if before else 0
        if distance == 0:
            differences += before[1:]
        else:
            for older in before[: self.order]:  # each becomes the next higher difference, in place
                differences.append(older.sub_(differences[-1]).div_(-distance))
        self.differences[cell], self.computed[cell] = [self.kept(difference) for difference in differences], step

    def predict(self, step: int, cell: Cell) -> Terms:
        differences = self.differences[cell]
        distance = self.clock[step] - self.clock[self.computed[cell]]
        if not self.cached_later(step, cell):
            del self.differences[cell]
        factors = self.factors(distance) if distance else [1.0]
        # a factor that no tensor can be multiplied by is infinite, and so is the prediction
        finite = [factor if abs(factor) <= LARGEST else copysign(inf, factor) for factor in factors]
        return list(zip(finite, differences, strict=False))

    def newest(self, cell: Cell) -> Tensor:
        feature = self.differences[cell][0]
        assert isinstance(feature, Tensor)  # or a selection is refused
        return feature

    def held(self) -> list[Value]:
        return [difference for differences in self.differences.values() for difference in differences]

    def state(self) -> Hashable:
        return tuple((cell, self.computed[cell], len(differences)) for cell, differences in self.differences.items())


class HiCache(Taylor):
    """Taylor's differences in a basis of scaled Hermite polynomials (HiCache, arXiv 2508.16984).

    A cached cell at distance x uses sum_k F_k sigma^k H_k(sigma x) / k!, with the physicists' H_0 = 1, H_1 = 2 x,
    H_{k+1} = 2 x H_k - 2 k H_{k-1}. x counts forward from the last computed step, as the differences' distances do
    (hicache-pp took -x before version 1.2, and so extrapolated backwards).

    Args:
        mask, order, clock, dtype: as for Taylor.
        sigma: contraction, in (0, 1), for distances in units of the clock; order 1 is Taylor's at sqrt(1/2).
    """

    def __init__(
        self,
        mask: Tensor,
        order: int,
        sigma: float,
        clock: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(mask, order, clock, dtype)
        self.sigma = sigma

    def factors(self, x: float) -> list[float]:
        factors = [0.0, 1.0]  # of orders -1 and 0
        for k in range(self.order):
            factors.append(2 * self.sigma**2 * (x * factors[-1] - factors[-2]) / (k + 1))
        return factors[1:]


@dataclass
class Track:
    """What FoCa knows of a cell, all of it terms of the same few tensors. Slopes are [] as long as there is none."""

    step: int  # the last computed one, its feature, and its slope from the computed feature before
    anchor: Terms
    slope: Terms
    time: float  # when the last value was used, that value, and its slope from the value before
    value: Terms
    local: Terms


class FoCa(Predictor):
    """Extrapolates by the mean of two slopes, of which one is predicted (FoCa, arXiv 2508.16211, eq. 8).

    At distance x and n steps after the computed feature f, with s the slope between the last two computed features and
    r that between the last two values used in the cell (computed or predicted), a cached cell uses

        f + x / 2 (s + r) min(1, 3 / n)^2,

    and f alone as long as there is one computed feature. This is cache-dit 1.5.3's calibrator, damping included. All
    of it is linear in f, s and the first r: three tensors a cell, two after computed steps in a row.

    Args:
        mask, clock: as for Taylor.
        divided: whether s and r are divided by the time between their values, as the paper's derivatives are;
            cache-dit takes the difference to the feature or value before, however far it is, and counts steps.
    """

    HORIZON = 3  # steps after which cache-dit damps

    def __init__(self, mask: Tensor, clock: Sequence[float] | None = None, divided: bool = True) -> None:
        super().__init__(mask, clock if divided else None)
        self.divided = divided
        self.tracks: dict[Cell, Track] = {}

    def _slope(self, value: Terms, now: float, older: Terms, before: float) -> Terms:
        distance = now - before if self.divided else 1
        return combine([(1 / distance, value), (-1 / distance, older)])

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        now, value = self.clock[step], [(1.0, feature)]
        track, old = Track(step, value, [], now, value, []), self.tracks.pop(cell, None)
        if not self.cached_later(step, cell):
            return
        if old is not None and now == self.clock[old.step]:
            track.slope, track.local = old.slope, old.local
        elif old is not None:  # in place of the anchor, and of another tensor before, if the last value has one
            ((_, anchor),) = old.anchor
            free = next((tensor for _, tensor in old.value if tensor is not anchor), None)
            if free is not None and now != old.time:
                track.local = [(1.0, evaluate(self._slope(value, now, old.value, old.time), free))]
            slope = self._slope(value, now, old.anchor, self.clock[old.step])
            track.slope = [(1.0, evaluate(slope, anchor))]
            track.local = track.local or track.slope
        self.tracks[cell] = track

    def predict(self, step: int, cell: Cell) -> Terms:
        track, now = self.tracks[cell], self.clock[step]
        if track.slope and now != track.time:
            damping = min(1.0, self.HORIZON / (step - track.step)) ** 2
            weight = (now - self.clock[track.step]) / 2 * damping
            value = combine([(1.0, track.anchor), (weight, track.slope), (weight, track.local)])
            track.local = self._slope(value, now, track.value, track.time)
            track.time, track.value = now, value
        if not self.cached_later(step, cell):
            del self.tracks[cell]
        return track.value

    def held(self) -> list[Value]:
        terms = [(*track.anchor, *track.slope, *track.local, *track.value) for track in self.tracks.values()]
        return list({id(tensor): tensor for track in terms for _, tensor in track}.values())
