"""Which steps to compute when only so many may be: the smallest sum of calibrated errors, by dynamic programming."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from goc.caching.decision import relative


def extrapolation_errors(
    products: Tensor, order: int, clock: Sequence[float] | None = None, scaled: bool = True
) -> Tensor:
    """L2 error of predicting step i from computed steps a and b before it, a mean over cells.

    float64 [steps + 1, steps, steps] by b + 1, a, i (b = -1: there is none); infinite unless b < a < i. order 0: f_a;
    1: on the line through f_b and f_a, or f_a where they are at one time; 2: a Taylor expansion of order two, for which
    step b - 1 stands for the one computed before b, as DPCache takes it. products: <f_i, f_j>, float64 [steps, steps,
    blocks, 2]. scaled: relative to |f_i|.
    """
    steps = len(products)
    times = torch.tensor(list(range(steps) if clock is None else clock), dtype=torch.float64)
    i, a = torch.arange(steps), torch.arange(steps)[:, None]
    b = torch.arange(-1, steps)[:, None, None]
    c = b - 1
    slope = quotient(times[i] - times[a], times[a] - times[b]).where(b >= 0, 0.0) * min(order, 1)
    bend = slope**2 / 2 if order > 1 else torch.zeros_like(slope)
    bend_before = quotient(slope * (times[i] - times[a]), times[b] - times[c]) / 2
    known = (c >= 0) & (bend_before != 0)
    bend, bend_before = bend.where(known, 0.0), bend_before.where(known & (order > 1), 0.0)
    one = torch.ones_like(slope)
    difference = ((one, i), (-(one + slope + bend), a), (slope + bend + bend_before, b), (-bend_before, c))
    errors = torch.zeros_like(slope)
    cells = products.flatten(2).unbind(dim=2)
    for product in cells:
        error = torch.zeros_like(slope)
        for (factor_p, p), (factor_q, q) in combinations_with_replacement(difference, 2):
            error += (1 if p is q else 2) * factor_p * factor_q * product[p, q]
        error.clamp_(min=0)
        errors += (relative(error, product.diagonal()) if scaled else error).sqrt() / len(cells)
    return torch.where((b < a) & (a < i), errors, torch.inf)


def quotient(value: Tensor, distance: Tensor) -> Tensor:
    """value / distance, and 0 where there is no distance."""
    return torch.where(distance == 0, 0.0, value / distance)


def dynamic_programming(errors: Tensor, count: int, first: int = 1) -> tuple[int, ...]:
    """The schedule of `count` computed steps, so many first ones among them, whose errors have the smallest sum.

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
    best[first - 1, first - 1] = 0.0
    choices = []
    for _ in range(count - first):
        total, choice = (best[:, :, None] + until[:, :, :steps]).min(dim=0)  # [a, c], and the b before
        best = torch.cat([torch.full((1, steps), torch.inf, dtype=torch.float64), total])
        choices.append(choice)
    b, a_last = divmod(int((best + until[:, :, steps]).argmin()), steps)
    computed = [a_last]
    for choice in reversed(choices):
        computed.append(b - 1)
        b = int(choice[b - 1, computed[-2]])
    return (*range(first - 1), *reversed(computed))
