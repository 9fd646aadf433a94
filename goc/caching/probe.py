"""What stands in where the first blocks, computed in every step, say how far the last residuals go on."""

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from goc.caching.decision import relative, sizes
from goc.caching.predictor import Cell, Predictor
from goc.models.network import Terms
from goc.models.packed import Value
from goc.models.seen import Seen

LEAST, MOST = 1.0, 1.5  # of the factor, as published


class Computed(NamedTuple):
    """A computed step: what all blocks added to their input, and what the first ones did."""

    residual: Tensor
    probe: Tensor


class ProbeAligned(Predictor):
    """Dynamic cache trajectory alignment (DiCache, arXiv 2508.17356, section 3.3).

    With the residuals r_1, r_2 of the last two computed steps, the newest first, and their probes p_1, p_2, a skipped
    step with the probe p adds r_2 + g (r_1 - r_2), g = mean|p - p_2| / mean|p_1 - p_2|, at least 1 and at most 1.5.
    After one computed step alone, this is reuse. For site=stack and schedule=dicache, which computes the first blocks.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask)
        self.computed: dict[Cell, list[Computed]] = {}
        self.probe: Tensor | None = None
        self.samples = 1  # that the rows are of

    def see(self, step: int, seen: Seen) -> None:
        self.probe, self.samples = seen.after - seen.before, seen.samples

    def store(self, step: int, cell: Cell, feature: Tensor) -> None:
        assert self.probe is not None
        self.computed[cell] = [Computed(feature, self.probe), *self.computed.get(cell, [])[:1]]

    def predict(self, step: int, cell: Cell) -> Terms:
        newest, *older = self.computed[cell]
        if not older or self.probe is None:
            return [(1.0, newest.residual)]
        changes = (sizes(a - older[0].probe, self.samples) for a in (self.probe, newest.probe))
        factors = torch.nan_to_num(relative(*changes), nan=LEAST, posinf=MOST).clamp(LEAST, MOST)
        weights = factors.repeat(len(self.probe) // self.samples).view(-1, *[1] * (newest.residual.ndim - 1))
        return [(1.0, torch.lerp(older[0].residual, newest.residual, weights))]

    def held(self) -> list[Value]:
        kept = [tensor for steps in self.computed.values() for step in steps for tensor in step]
        return list({id(tensor): tensor for tensor in kept}.values())

    def state(self) -> Hashable:
        return tuple((cell, len(steps)) for cell, steps in self.computed.items())
