"""A search over schedules: a few samples for each that a surrogate proposes, and all for what is not clearly worse."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from goc.sampling.local_search import Steps, neighbours, starts
from goc.sampling.surrogate import Surrogate

FIRST = 1 / 4  # share of the samples that a schedule is measured on before it may go out
CLEARLY = 2.0  # standard errors of the mean of paired differences
AROUND = 4  # schedules, the closest ones, near which others are proposed
POOL = 2000  # schedules at most that are compared by what is expected of them
PROPOSED = 6  # of these, before the surrogate learns of them
HOPE, DOUBT = 2.0, 3.0  # standard deviations below what is expected: of what is tried next, and of what never will be
TINY = float(np.finfo(float).tiny)
WORST = 2.0  # logarithm of how many times as far as the best a schedule counts at most

# distances of some samples with a schedule
Measure = Callable[[Steps, range], Sequence[float]]


class Race:
    """Schedules on the first so many of the samples, while a budget of them lasts.

    left: how many samples may still be made, with any schedule. distances: of each schedule, those measured so far.
    """

    def __init__(self, measure: Measure, samples: int, left: int) -> None:
        self.measure, self.samples, self.left, self.total = measure, samples, left, left
        self.distances: dict[Steps, list[float]] = {}

    def measured(self, schedule: Steps, samples: int) -> bool:
        """Measure a schedule on the first samples, if that is not done; false: the budget does not allow it."""
        distances = self.distances.get(schedule, [])
        missing = range(len(distances), samples)
        if len(missing) > self.left:
            return False
        if missing:
            self.distances[schedule] = [*distances, *self.measure(schedule, missing)]
            self.left -= len(missing)
        return True

    def mean(self, schedule: Steps, samples: int | None = None) -> float:
        """A schedule's mean distance over the first of its samples; None: all."""
        distances = self.distances[schedule][:samples]
        return sum(distances) / len(distances)

    def ranked(self) -> list[Steps]:
        """The schedules that were measured on all samples, the closest first."""
        whole = [schedule for schedule, distances in self.distances.items() if len(distances) == self.samples]
        return sorted(whole, key=lambda schedule: (self.mean(schedule), schedule))

    def clearly_worse(self, schedule: Steps, best: Steps) -> bool:
        """Whether paired differences of a schedule's distances to another one's leave no doubt; it may have fewer."""
        distances = np.array(self.distances[schedule])
        other = np.array(self.distances[best][: len(distances)])
        if not (np.isfinite(distances).all() and np.isfinite(other).all()):
            return not np.isfinite(distances).all()
        differences = distances - other
        if len(differences) < 2:
            return False
        return bool(differences.mean() > CLEARLY * differences.std(ddof=1) / math.sqrt(len(differences)))

    def tried(self, schedule: Steps) -> bool:
        """Measure a schedule on the first share of the samples, and on all unless it is clearly worse than the best.

        One that was out goes on to all samples. False: the budget does not allow it.
        """
        if schedule not in self.distances:
            if not self.measured(schedule, max(1, round(FIRST * self.samples))):
                return False
            if (best := self.ranked()) and self.clearly_worse(schedule, best[0]):
                return True
        return self.measured(schedule, self.samples)

    def compared(self) -> tuple[list[Steps], np.ndarray, np.ndarray]:
        """All schedules, how far they are on their samples beside the best, and the standard error of that.

        The former as a logarithm. Both [schedules]; the error is of what is not known of the other samples.
        """
        best = np.array(self.distances[self.ranked()[0]])
        values, errors = [], []
        for distances in map(np.array, self.distances.values()):
            pairs = best[: len(distances)]
            if not (np.isfinite(distances).all() and np.isfinite(pairs).all()):
                ratio, error = math.inf, 0.0
            else:
                ratio = (distances.mean() + TINY) / (pairs.mean() + TINY)
                spread = (distances - pairs).std(ddof=1) if len(distances) > 1 else distances.mean()
                error = (
                    spread / (distances.mean() + TINY) * math.sqrt((1 - len(distances) / self.samples) / len(distances))
                )
            values.append(min(math.log(ratio), WORST))
            errors.append(min(error, WORST))
        return [*self.distances], np.array(values), np.array(errors)


def halving(race: Race, known: Sequence[Steps], steps: int, count: int, seed: int) -> None:
    """Race schedules of `count` computed steps against each other until none is expected to be closer than the best.

    Those that are known are measured on all samples, as far as the budget goes, so that no one of them is closer than
    the best. Then come the local search's starts; and then, again and again, what a surrogate expects to be closest:
    of the schedules near the best ones those with the smallest mean less HOPE standard deviations of the logarithm of
    their distance (a lower confidence bound: Srinivas et al., arXiv 0912.3995). It ends where even the mean less DOUBT
    of them is above the best one's for all, or with the budget.
    """
    random = np.random.default_rng(seed)
    for schedule in dict.fromkeys(known):
        race.measured(schedule, race.samples)
    going = all(race.tried(schedule) for schedule in starts(steps, count, random))
    most = math.comb(steps - 1, count - 1)
    while going and race.left and len(race.distances) < most and race.mean(race.ranked()[0]) > 0:
        schedules, values, errors = race.compared()
        surrogate = Surrogate(schedules, values, errors, steps)
        pool = near([schedules[i] for i in np.argsort(values, kind="stable")], race, steps, random)
        mean, deviation = surrogate.expected(pool)
        going = bool((mean - DOUBT * deviation).min() <= 0)
        for i in np.argsort((mean - HOPE * deviation).round(6), kind="stable")[:PROPOSED]:
            going = going and race.tried(pool[i])


def near(ranked: Sequence[Steps], race: Race, steps: int, random: np.random.Generator) -> list[Steps]:
    """Schedules that a race has not measured on all samples, one or two moves of a computed step from the best ones.

    At most POOL, drawn at random if there are more; of the best ones that have any. Not empty while one is untried.
    """
    untried = dict[Steps, None]()
    for place, here in enumerate(ranked):
        if place >= AROUND and untried:
            break
        one = neighbours(here, steps)
        both = [*one, *(schedule for nearer in one for schedule in neighbours(nearer, steps))]
        untried |= dict.fromkeys(schedule for schedule in both if len(race.distances.get(schedule, ())) < race.samples)
    pool = list(untried)
    return [pool[i] for i in sorted(random.permutation(len(pool))[:POOL])]
