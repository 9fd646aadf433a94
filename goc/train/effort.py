"""How much is spent on a front, and how many evaluations of the denoiser that takes at most."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from goc.sampling.converged import evaluations_of
from goc.sampling.search import budget_of
from goc.train.fitting import DRAWS, LOOKED
from goc.train.starts import linear_predictors
from goc.train.targets import UNCACHED

PASSES = {False: 4, True: 3}  # of a training: forward, again for the gradient unless it was kept, and backward for two
SHORT = 1 / 4  # of the iterations, for each of the schedules that are compared after a training


@dataclass(frozen=True)
class Effort:
    """How much is spent on each number of evaluations: numbers as the command takes them, and those of the search."""

    iterations: int
    batch: int
    samples: int
    held: int
    rate: float
    rivals: int
    turns: int
    keep: bool
    target: str
    search_evaluations: int
    search_samples: int

    def compares(self, schedules: int) -> bool:
        """Whether so many schedules, and those around them, are compared after a short training."""
        return self.iterations > 0 and (schedules > 1 or self.turns > 0)

    @property
    def short(self) -> int:
        """Iterations for each of the schedules that are compared."""
        return max(1, round(self.iterations * SHORT))

    @property
    def seen(self) -> range:
        """The samples that schedules are compared on after a short training."""
        return range(min(self.search_samples, self.samples))

    @property
    def seen_of_starts(self) -> range:
        """The samples that predictors are compared on, from which a training starts."""
        return self.seen[: max(1, len(self.seen) // 4)]

    def training(self, iterations: int, computed: int) -> int:
        """Evaluations of the denoiser in a training on a schedule with so many computed ones."""
        if not iterations:
            return 0
        gradients = min(LOOKED, self.samples) * (1 + 2 * DRAWS if self.keep else PASSES[False] * DRAWS)
        return computed * (PASSES[self.keep] * iterations * self.batch + gradients)

    def targets(self, steps: int, objective: str) -> int:
        """Evaluations that the targets take, of the samples that trainings see and are judged by."""
        return (self.samples + self.held) * (steps if self.target == UNCACHED else evaluations_of(objective))

    def weights(self, steps: int, computed: int, started: int, compared: int) -> int:
        """Evaluations that the weights of one number take.

        started: schedules whose predictors are compared. compared: those of them that are trained for a short time.
        """
        mask = torch.zeros(steps, 1, 1, dtype=torch.bool)
        predictors = sum(1 for _ in linear_predictors(mask, list(range(steps))))
        measured = started * predictors * len(self.seen_of_starts) + compared * len(self.seen) + 2 * self.held
        trained = self.training(self.iterations, computed) + compared * self.training(self.short, computed)
        return trained + computed * measured

    def estimate(self, steps: int, counts: Sequence[int], calibration_samples: int, objective: str) -> int:
        """Evaluations of the denoiser that a front will take at most."""
        spent = calibration_samples * steps
        total = spent + self.targets(steps, objective)
        for count in counts:
            tried = budget_of(self.search_samples, self.search_evaluations, spent, count)
            around = 2 * (steps - count)  # a cached step is between two computed ones, either of which may move to it
            compared = self.rivals * (1 + self.turns) if self.compares(self.rivals) else 0
            started = self.rivals + self.turns * around if compared else 1
            total += self.search_samples * steps + count * tried + self.weights(steps, count, started, compared)
        return total
