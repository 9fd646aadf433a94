"""Which steps to compute when only so many may be: the smallest sum of calibrated errors, by dynamic programming."""

from collections.abc import Sequence

import torch
from torch import Tensor

from goc.caching.decision import relative


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
        errors += relative(error.clamp(min=0), square).sqrt() / len(cells)
    b, a, i = (torch.arange(steps + extra) for extra in (1, 0, 0))
    ordered = (b[:, None, None] <= a[:, None]) & (a[:, None] < i)
    return torch.where(ordered, errors, torch.inf)


def dynamic_programming(errors: Tensor, count: int) -> tuple[int, ...]:
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
