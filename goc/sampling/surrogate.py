"""What a schedule that was not tried may be expected to do: a Gaussian process over computed steps."""

from collections.abc import Sequence

import numpy as np

from goc.sampling.local_search import Steps

SCALE = 2.0  # prior standard deviation of a value
RESIDUE = 0.03  # standard deviation of what the computed steps near each other do not explain


def likeness(one: Sequence[Steps], other: Sequence[Steps], steps: int) -> np.ndarray:
    """How alike schedules of equally many computed steps are, in [0, 1]: float64 [len(one), len(other)].

    The mean over every three computed steps in a row (the end counts as one) of exp(-d^2 / 2), where d is how far
    these lie from the other schedule's, in units of the mean distance of computed steps.
    """
    count, alike = len(one[0]), np.zeros((len(one), len(other)))
    left, right = (np.array([(*schedule, steps) for schedule in each], dtype=float) for each in (one, other))
    apart = [np.zeros_like(alike)] * 3  # squared, of the last three computed steps
    for j in range(count + 1):
        apart = [*apart[1:], ((left[:, None, j] - right[None, :, j]) * count / steps) ** 2]
        if j >= 2:
            alike += np.exp(-sum(apart) / 2)
    return alike / (count - 1)


class Surrogate:
    """Gaussian process regression (Rasmussen and Williams 2006, section 2.2) on the values of some schedules.

    noise: standard deviation of each value [n]. Schedules have at least two computed steps.
    """

    def __init__(self, schedules: Sequence[Steps], values: np.ndarray, noise: np.ndarray, steps: int) -> None:
        self.schedules, self.steps, self.prior = schedules, steps, float(np.median(values))
        covariance = SCALE**2 * likeness(schedules, schedules, steps) + np.diag(noise**2 + RESIDUE**2)
        self.inverse = np.linalg.inv(covariance)
        self.weights = self.inverse @ (values - self.prior)

    def expected(self, schedules: Sequence[Steps]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the values of some schedules, both float64 [len(schedules)]."""
        cross = SCALE**2 * likeness(schedules, self.schedules, self.steps)
        variance = SCALE**2 - np.einsum("ij,jk,ik->i", cross, self.inverse, cross, optimize=True)
        return self.prior + cross @ self.weights, np.sqrt(np.maximum(variance, 0))
