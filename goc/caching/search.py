"""Which steps to compute when only so many may be: found by trying, or by dynamic programming on calibrated errors.

A schedule of whole steps is written as its computed steps, increasing, step 0 among them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Steps = tuple[int, ...]

STARTS = 32
JITTER = 0.15  # standard deviation of a random start's computed steps, as a share of their mean distance


def starts(steps: int, count: int, random: np.random.Generator) -> list[Steps]:
    """Schedules to start a search from, each once: even ones, denser towards either end, and such ones disturbed.

    Computed are about steps * (j / count)^p, for p from 2/3 (dense at the end) to 3/2.
    """
    powers = np.exp(np.linspace(-1, 1, 9) * np.log(1.5))
    powers = powers[np.argsort(np.abs(np.log(powers)), kind="stable")]  # the even one first
    found: dict[Steps, None] = {}
    for tried in range(4 * STARTS):
        power = powers[tried % len(powers)]
        places = steps * (np.arange(count) / count) ** power
        if tried >= len(powers):
            places += random.normal(0.0, 2 * JITTER * steps / count, count)
        found.setdefault(separate(places, steps))
        if len(found) == STARTS:
            break
    return list(found)


def separate(places: np.ndarray, steps: int) -> Steps:
    """The nearest distinct steps to some places, in 0..steps-1, increasing and with step 0 first."""
    chosen: list[int] = []
    for j, place in enumerate(np.sort(places)):
        lowest, highest = (chosen[-1] + 1 if chosen else 0), steps - len(places) + j
        chosen.append(0 if j == 0 else int(np.clip(np.rint(place), lowest, highest)))
    return tuple(chosen)


def neighbours(schedule: Steps, steps: int) -> list[Steps]:
    """All schedules that differ in one computed step: it lies elsewhere between the computed ones beside it."""
    found = []
    for j in range(1, len(schedule)):
        before, after = schedule[j - 1], schedule[j + 1] if j + 1 < len(schedule) else steps
        others = (place for place in range(before + 1, after) if place != schedule[j])
        found += [(*schedule[:j], place, *schedule[j + 1 :]) for place in others]
    return found


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
    found = min(values, key=lambda schedule: (values[schedule], schedule))
    return found, values[found]


def extrapolation_errors(products: Tensor, order: int, clock: Sequence[float] | None = None) -> Tensor:
    """Relative L2 error of predicting step i from computed steps a and b before it, a mean over cells.

    float64 [steps + 1, steps, steps] by b + 1, a, i (b = -1: there is none); infinite unless b < a < i. order 0: f_a;
    1: on the line through f_b and f_a, or f_a where they are at one time. products: <f_i, f_j>, float64 [steps, steps,
    blocks, 2].
    """
    steps = len(products)
    times = torch.tensor(list(range(steps) if clock is None else clock), dtype=torch.float64)
    behind = times[None, :, None] - times[:, None, None]
    slope = torch.where(behind == 0, 0.0, (times - times[:, None]) / behind) * min(order, 1)  # of b, a, i
    slope = torch.cat([torch.zeros(1, steps, steps), slope])
    errors = torch.zeros_like(slope)
    cells = products.flatten(2).unbind(dim=2)
    for product in cells:
        square = product.diagonal()
        of_b = torch.cat([product[:1] * 0, product])  # <f_b, .>, no b first
        error = (
            square
            - 2 * (1 + slope) * product[None]
            + 2 * slope * of_b[:, None]
            + (1 + slope) ** 2 * square[:, None]
            - 2 * slope * (1 + slope) * of_b[:, :, None]
            + slope**2 * torch.cat([square[:1] * 0, square])[:, None, None]
        )
        errors += (error.clamp(min=0) / square).sqrt() / len(cells)
    b, a, i = (torch.arange(steps + extra) for extra in (1, 0, 0))
    ordered = (b[:, None, None] <= a[:, None]) & (a[:, None] < i)
    return torch.where(ordered, errors, torch.inf)


def dynamic_programming(errors: Tensor, count: int) -> Steps:
    """The schedule of `count` computed steps whose cached steps' errors have the smallest sum.

    Additive, as Cumulative Error Minimization takes them (CEM, arXiv 2512.23258, section 3): what an error does to the
    steps after it is left out. errors: of extrapolation_errors, [steps + 1, steps, steps].
    """
    steps = errors.shape[1]
    # until[b, a, c]: the sum over steps a < i < c, computed at b, a, and then at c (c = steps: nothing more)
    finite = torch.where(errors.isfinite(), errors, 0.0).cumsum(dim=2)
    until = torch.cat([torch.zeros(steps + 1, steps, 1), finite], dim=2)
    a, c = torch.arange(steps)[:, None], torch.arange(steps + 1)
    until = torch.where(c > a, until, torch.inf)
    best = torch.full((steps + 1, steps), torch.inf, dtype=torch.float64)  # of the last two computed, b + 1 and a
    best[0, 0] = 0.0
    choices = []
    for _ in range(count - 1):
        total, choice = (best[:, :, None] + until[:, :, :steps]).min(dim=0)  # [a, c], and the b before
        best = torch.cat([torch.full((1, steps), torch.inf, dtype=torch.float64), total])
        choices.append(choice)
    b, a_last = divmod(int((best + until[:, :, steps]).argmin()), steps)
    found = [a_last]
    for choice in reversed(choices):
        found.append(b - 1)
        b = int(choice[b - 1, found[-2]])
    return tuple(reversed(found))
