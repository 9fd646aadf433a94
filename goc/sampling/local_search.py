"""Local search over schedules: which steps to compute when only so many may be, whatever makes one better.

A schedule of whole steps is written as its computed steps, increasing, step 0 among them.
"""

from collections.abc import Callable

import numpy as np

Steps = tuple[int, ...]
# (objective, steps, count, evaluations, seed) -> the best schedule that was tried, and its value
Search = Callable[[Callable[[Steps], float], int, int, int, int], tuple[Steps, float]]

STARTS = 32
JITTER = 0.3  # standard deviation of a random start's computed steps, as a share of their mean distance


def starts(steps: int, count: int, random: np.random.Generator) -> list[Steps]:
    """Schedules to start a search from, each once: even ones, denser towards either end, and such ones disturbed.

    Computed are about steps * (j / count)^p, for p from 2/3 (dense at the end) to 3/2.
    """
    powers = np.exp(np.linspace(-1, 1, 9) * np.log(1.5))
    powers = powers[np.argsort(np.abs(np.log(powers)), kind="stable")]  # the even one first
    chosen: dict[Steps, None] = {}
    for tried in range(4 * STARTS):
        power = powers[tried % len(powers)]
        places = steps * (np.arange(count) / count) ** power
        if tried >= len(powers):
            places += random.normal(0.0, JITTER * steps / count, count)
        chosen.setdefault(separate(places, steps))
        if len(chosen) == STARTS:
            break
    return list(chosen)


def separate(places: np.ndarray, steps: int) -> Steps:
    """The nearest distinct steps to some places, in 0..steps-1, increasing and with step 0 first."""
    chosen: list[int] = []
    for j, place in enumerate(np.sort(places)):
        lowest, highest = (chosen[-1] + 1 if chosen else 0), steps - len(places) + j
        chosen.append(0 if j == 0 else int(np.clip(np.rint(place), lowest, highest)))
    return tuple(chosen)


def neighbours(schedule: Steps, steps: int) -> list[Steps]:
    """All schedules that differ in one computed step: it lies elsewhere between the computed ones beside it."""
    moves = []
    for j in range(1, len(schedule)):
        before, after = schedule[j - 1], schedule[j + 1] if j + 1 < len(schedule) else steps
        others = (place for place in range(before + 1, after) if place != schedule[j])
        moves += [(*schedule[:j], place, *schedule[j + 1 :]) for place in others]
    return moves


def local_search(
    objective: Callable[[Steps], float], steps: int, count: int, evaluations: int, seed: int
) -> tuple[Steps, float]:
    """The best schedule of `count` computed steps that so many evaluations of the objective find, and its value.

    After the starts, the neighbours of the best schedule are tried in random order until one is better, whose
    neighbours are tried then; when all of the best one's have been tried, those of the next best one are.
    Deterministic: the same seed and objective ask for the same schedules in the same order.
    """
    random = np.random.default_rng(seed)
    values: dict[Steps, float] = {}
    left: dict[Steps, list[Steps]] = {}  # neighbours that were not tried yet
    for schedule in starts(steps, count, random)[:evaluations]:
        values[schedule] = objective(schedule)
    while len(values) < evaluations:
        for best in sorted(values, key=lambda schedule: (values[schedule], schedule)):
            if best not in left:
                around = neighbours(best, steps)
                left[best] = [around[i] for i in random.permutation(len(around))]
            left[best] = [schedule for schedule in left[best] if schedule not in values]
            if left[best]:
                schedule = left[best].pop()
                values[schedule] = objective(schedule)
                break
        else:
            break  # everything was tried
    best = min(values, key=lambda schedule: (values[schedule], schedule))
    return best, values[best]
