"""A search over schedules by successive halving: many on a few samples, and all samples for what is good there."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from goc.sampling.local_search import Steps, neighbours, starts

RUNGS = (1 / 12, 1 / 4, 1)  # shares of the samples
KEPT = 1 / 3  # of the schedules on a rung, those that go on to the next one
MOVES = 24  # schedules that are tried from one
CLEARLY = 2.0  # standard errors of the mean of paired differences
HOTTEST, COLDEST = 0.05, 0.001  # temperatures, as shares of the smallest mean distance

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
        own = self.distances.get(schedule, [])
        missing = range(len(own), samples)
        if len(missing) > self.left:
            return False
        if missing:
            self.distances[schedule] = [*own, *self.measure(schedule, missing)]
            self.left -= len(missing)
        return True

    def mean(self, schedule: Steps, samples: int | None = None) -> float:
        """A schedule's mean distance over the first of its samples; None: all."""
        own = self.distances[schedule][:samples]
        return sum(own) / len(own)

    def ranked(self) -> list[Steps]:
        """The schedules that were measured on all samples, the closest first."""
        whole = [schedule for schedule, own in self.distances.items() if len(own) == self.samples]
        return sorted(whole, key=lambda schedule: (self.mean(schedule), schedule))

    def clearly_worse(self, schedule: Steps, best: Steps) -> bool:
        """Whether paired differences of a schedule's distances to another one's leave no doubt; it may have fewer."""
        own = np.array(self.distances[schedule])
        other = np.array(self.distances[best][: len(own)])
        if not (np.isfinite(own).all() and np.isfinite(other).all()):
            return not np.isfinite(own).all()
        differences = own - other
        if len(differences) < 2:
            return False
        return bool(differences.mean() > CLEARLY * differences.std(ddof=1) / math.sqrt(len(differences)))

    def sift(self, schedules: Sequence[Steps]) -> None:
        """Measure schedules rung by rung: after each, the best share of them goes on, but for what is clearly worse."""
        field = list(schedules)
        for rung in sorted({max(1, round(share * self.samples)) for share in RUNGS}):
            field = [schedule for schedule in field if self.measured(schedule, rung)]
            field.sort(key=lambda schedule: (self.mean(schedule, rung), schedule))
            field = field[: math.ceil(len(field) * KEPT)]
            if best := self.ranked():
                field = [schedule for schedule in field if not self.clearly_worse(schedule, best[0])]


def halving(race: Race, known: Sequence[Steps], steps: int, count: int, seed: int) -> None:
    """Race schedules of `count` computed steps against each other until the budget is spent, or none is left.

    Those that are known are measured on all samples, as far as the budget goes, so that no one of them is closer than
    the best. Then come the starts of the local search; and then, again and again, moves from a schedule that was
    measured on all samples: one computed step elsewhere between its neighbours; where there are no more of these, two,
    one after the other; and then one or two of them anywhere. Which schedule is drawn with the probability
    exp(-d / temperature), where d is how much farther it ends than the best: annealing as BudCache's (arXiv
    2606.13496), in proportion. The temperature falls with the budget; at its end moves are from the best.
    """
    random = np.random.default_rng(seed)
    for schedule in dict.fromkeys(known):
        race.measured(schedule, race.samples)
    race.sift([schedule for schedule in starts(steps, count, random) if schedule not in race.distances])
    most, spent = math.comb(steps - 1, count - 1), set[Steps]()
    while race.left and len(race.distances) < most:
        before = race.left
        ranked = [schedule for schedule in race.ranked() if schedule not in spent]
        if not ranked:
            break
        here = drawn(race, ranked, random)
        moves = fresh(here, steps, race.distances, random)
        if len(moves) < MOVES:
            spent.add(here)
        race.sift(moves)
        if moves and race.left == before:
            break  # it does not allow for one more


def drawn(race: Race, ranked: Sequence[Steps], random: np.random.Generator) -> Steps:
    """One of some schedules, the closest first, by Boltzmann's distribution at a temperature that falls."""
    means = np.array([race.mean(schedule) for schedule in ranked])
    cooled = 1 - race.left / race.total
    temperature = means[0] * HOTTEST * (COLDEST / HOTTEST) ** cooled
    if not (np.isfinite(means[0]) and temperature > 0):
        return ranked[0]
    weights = np.exp((means[0] - means) / temperature)
    return ranked[int(random.choice(len(ranked), p=weights / weights.sum()))]


def fresh(here: Steps, steps: int, tried: dict[Steps, list[float]], random: np.random.Generator) -> list[Steps]:
    """Up to MOVES schedules near one that were not tried yet; fewer where hardly any are left."""
    near = neighbours(here, steps)
    found = dict[Steps, None]()
    for around in (near, (schedule for one in near for schedule in neighbours(one, steps))):
        if len(found) < MOVES:  # the second is longer
            each = [*dict.fromkeys(own for own in around if own not in tried and own not in found)]
            found |= dict.fromkeys(each[i] for i in random.permutation(len(each))[: MOVES - len(found)])
    cached = [step for step in range(1, steps) if step not in here]
    movable = here[1:]
    for _ in range(4 * MOVES):
        if len(found) == MOVES:
            break
        number = min(1 + int(random.integers(2)), len(movable), len(cached))
        old, new = (random.choice(places, number, replace=False).tolist() for places in (movable, cached))
        schedule = tuple(sorted({*here} - {*old} | {*new}))
        if schedule not in tried:
            found.setdefault(schedule)
    return list(found)
