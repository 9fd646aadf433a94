"""Flow matching on the linear path (SiT, Ma et al., arXiv 2401.08740): x_t = t data + (1 - t) noise, t from 0 to 1.

The network sees t itself and gives the velocity dx/dt, in the first half of its output channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FlowTimes:
    """The times of the network's evaluations; float64 [evaluations], in [0, 1], never falling.

    steps: how many steps they belong to. starts: of these, float64 [steps], where their lengths differ: they rise from
    0, the last step ends at 1, and each has one evaluation, at its start; `times` is what the network is given there.
    """

    times: np.ndarray
    steps: int
    starts: np.ndarray | None = None

    @classmethod
    def of(cls, steps: int, within: Sequence[float]) -> "FlowTimes":
        """Evaluations in each of `steps` equal steps, at these fractions of its length; raises ValueError below 1."""
        if steps < 1:
            raise ValueError(f"steps={steps}: must be at least 1")
        return cls(np.add.outer(np.arange(steps), within).flatten() / steps, steps)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def lengths(self) -> np.ndarray:
        """Of the steps, float64 [steps]."""
        return np.full(self.steps, 1.0 / self.steps) if self.starts is None else np.diff(self.starts, append=1.0)

    @property
    def log_snr(self) -> np.ndarray:
        """Logarithm of the signal-to-noise ratio, ln(t / (1 - t)); equal where two evaluations are at one time.

        It is infinite at both ends, which are taken a quarter of a step inside.
        """
        at, lengths = self.times if self.starts is None else self.starts, self.lengths
        inside = np.clip(at, 0.25 * lengths[0], 1.0 - 0.25 * lengths[-1])
        return np.log(inside / (1.0 - inside))
