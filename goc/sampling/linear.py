"""A deterministic solver as a table: all that it does is to add multiples of the noise and of the network's outputs."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from goc.sampling.solvers import Solver, no_noise

REACH = 1e-3  # of the way to the nearest time beside it, that one is moved to see what changes


def coefficients(solver: Solver) -> Tensor:
    """What x is made of, float64 [evaluations + 1, evaluations + 1].

    Row i: at evaluation i; the last row: after the last step. Column 0: multiples of the noise; column 1 + j: of the
    estimate in evaluation j. The solver itself gives them, when these are the rows of a unit matrix.
    """
    count = len(solver.grid) + 1
    units, rows = torch.eye(count, dtype=torch.float64).view(count, 1, 1, 1, count), []

    def denoise(x: Tensor, i: int) -> Tensor:
        rows.append(x)
        return units[1 + i]

    *_, last = solver.sample(denoise, units[0], no_noise)
    return torch.cat([*rows, last]).view(count, count)


def differentiable(solver_at: Callable[[np.ndarray], Solver], points: Tensor, end: float) -> Tensor:
    """The coefficients of a solver at points [steps], through which gradients flow to all of these but the first.

    solver_at: the solver with its evaluations at some points, one a step. end: the point of the data, after the last.
    The derivatives are central differences, so that they are those of the very solver, whichever it is.
    """
    values = points.detach().cpu().numpy()
    lengths = np.abs(np.diff(values, append=end))
    slopes = [torch.zeros(len(values) + 1, len(values) + 1, dtype=torch.float64)]
    for i in range(1, len(values)):
        reach = np.zeros_like(values)
        reach[i] = REACH * min(lengths[i - 1], lengths[i])
        ahead, behind = (coefficients(solver_at(values + side * reach)) for side in (1, -1))
        slopes.append((ahead - behind) / (2 * reach[i]))
    moved = (points - points.detach()).cpu()  # zero, with a gradient
    return coefficients(solver_at(values)) + torch.einsum("irc,i->rc", torch.stack(slopes), moved)
