"""BudCache's search over schedules: simulated annealing, and then hill climbing."""

import math
from collections.abc import Callable

import numpy as np

from goc.sampling.local_search import Steps

HOTTEST, COLDEST = 0.05, 1e-5  # temperatures, in units of the objective
NEAR = 3  # steps that a local move goes at most
FAR_MOVES = 2  # of each computed step, when a hill is climbed


def annealing(
    objective: Callable[[Steps], float], steps: int, count: int, evaluations: int, seed: int
) -> tuple[Steps, float]:
    """The best schedule of `count` computed steps that so many evaluations of the objective find, and its value.

    After BudCache (arXiv 2606.13496) and its code. The first max(1, count // 4) steps are computed, the others at
    random. One computed step is moved (in one of ten moves two are), in 63 % of the moves by at most NEAR steps; what
    is worse by d is accepted with the probability exp(-d / temperature). Then the best one of all schedules that differ
    by a step moved by at most NEAR steps, or at random, is taken until none is better. Annealing has as many moves as
    half of the evaluations; while there are any left, all begins again at random. Deterministic, and no schedule is
    evaluated twice.
    """
    random = np.random.default_rng(seed)
    first = max(1, count // 4)
    most = min(evaluations, math.comb(steps - first, count - first))
    values: dict[Steps, float] = {}

    def value(schedule: Steps) -> float:
        if schedule not in values and len(values) < most:
            values[schedule] = objective(schedule)
        return values.get(schedule, math.inf)

    def chosen(places: list[int], number: int = 1) -> list[int]:
        return random.choice(places, number, replace=False).tolist()

    def moved(schedule: Steps, old: list[int], new: list[int]) -> Steps:
        return tuple(sorted({*schedule} - {*old} | {*new}))

    def cached(schedule: Steps) -> list[int]:
        return [step for step in range(first, steps) if step not in schedule]

    def random_move(schedule: Steps) -> Steps:
        movable, others = list(schedule[first:]), cached(schedule)
        if random.random() >= 0.9 and min(len(movable), len(others)) > 1:
            return moved(schedule, chosen(movable, 2), chosen(others, 2))
        old = chosen(movable)
        near = [step for step in others if abs(step - old[0]) <= NEAR] if random.random() < 0.7 else []
        return moved(schedule, old, chosen(near or others))

    def around(schedule: Steps) -> list[Steps]:
        others = cached(schedule)
        return [
            moved(schedule, [old], [new])
            for old in schedule[first:]
            for new in (*(step for step in others if abs(step - old) <= NEAR),
                        *(chosen(others)[0] for _ in range(FAR_MOVES)))
        ]  # fmt: skip

    while len(values) < most:
        here = moved((), [], [*range(first), *chosen(list(range(first, steps)), count - first)])
        value(here)
        if len(values) == most:
            break
        moves = evaluations // 2
        for i in range(moves):
            there = random_move(here)
            worse = value(there) - value(here)
            if worse < 0 or random.random() < math.exp(-worse / (HOTTEST * (COLDEST / HOTTEST) ** (i / moves))):
                here = there
        while value(best := min(around(here), key=value)) < value(here):
            here = best
    best = min(values, key=lambda schedule: (values[schedule], schedule))
    return best, values[best]
