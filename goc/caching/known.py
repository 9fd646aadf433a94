"""Whole steps to compute that are known without trying any: what a search must not end behind."""

from collections.abc import Sequence

from torch import Tensor

from goc.caching.dynamic import dynamic_programming, extrapolation_errors
from goc.caching.schedule import computed_steps_of, fora, taylorseer, uniform


def resized(computed: tuple[int, ...], count: int, steps: int) -> tuple[int, ...]:
    """A schedule of so many steps made one of `count` computed ones.

    The computed steps that leave the smallest gap are left out, one by one; or the middle of the largest gap is
    computed, too. Of two the later one is.
    """
    chosen = list(computed)
    while len(chosen) > count:
        ends = [*chosen, steps]
        chosen.pop(min(range(1, len(chosen)), key=lambda j: (ends[j + 1] - ends[j - 1], -j)))
    while len(chosen) < count:
        ends = [*chosen, steps]
        j = max(range(len(chosen)), key=lambda j: (ends[j + 1] - ends[j], j))
        chosen.insert(j + 1, (ends[j] + ends[j + 1]) // 2)
    return tuple(chosen)


def by_rule(steps: int, count: int) -> dict[str, tuple[int, ...]]:
    """The even schedule of `count` computed steps, and those of FORA and TaylorSeer that come closest to as many."""
    schedules = {"even": tuple(computed_steps_of(uniform(steps, 1, 1 - count / steps)))}
    for name, rule in (("fora", fora), ("taylorseer", taylorseer)):
        each = (tuple(computed_steps_of(rule(steps, 1, interval))) for interval in range(1, steps + 1))
        schedules[name] = resized(min(each, key=lambda schedule: abs(len(schedule) - count)), count, steps)
    return schedules


def by_programming(products: Tensor, count: int, clock: Sequence[float] | None) -> dict[str, tuple[int, ...]]:
    """Dynamic programming's for reuse, for lines through two computed features, for Taylor's order two; and DPCache's.

    products: inner products of every two steps' features, [steps, steps, blocks, 2].
    """
    orders = {"dynamic_reuse": 0, "dynamic_anchored": 1, "dynamic_taylor": 2}
    errors = {name: extrapolation_errors(products, order, clock) for name, order in orders.items()}
    schedules = {name: dynamic_programming(of_order, count) for name, of_order in errors.items()}
    absolute = extrapolation_errors(products, 2, clock, scaled=False)
    return schedules | {"dpcache": dynamic_programming(absolute, count, min(3, count))}
