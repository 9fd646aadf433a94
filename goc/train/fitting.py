"""The training of a front: weights of each cell and shifts of the times, in coordinates in which all count alike.

By their effect on where samples end, weights differ by five orders of magnitude, and those of neighbouring steps do
nearly the same: plain Adam needs thousands of iterations. So it descends in other coordinates, in which the mean square
of what a step does to the samples is the step's length: weights = begin + (J^T J + damping)^(-1/2) theta, with the
Jacobian J of the samples' ends (as Gauss-Newton and Levenberg-Marquardt take it, Nocedal and Wright 2006, chapter 10),
of which random combinations of rows are enough.

The network may be given another time in a computed step than the solver's, since what it is given there is not what
that step of the solver would be given: as LD3 learns it for a solver (Tong et al., arXiv 2405.15506), and the
time-shift sampler chooses it (Li et al., arXiv 2305.15583).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goc.models.schedules import Trained
from goc.planning.plan import Plan
from goc.sampling.calibrate import Calibration
from goc.sampling.training import Progress
from goc.train.learning import descend, weighted_ends
from goc.train.starts import distance_of

LOOKED = 64  # samples that the Jacobian is taken of
TOGETHER = 32  # of them at once
DRAWS = 8  # random combinations of each one's values
DAMPING = 1e-3  # beside the largest square of a singular value
SPEED = 5.0  # of shifts beside weights


class Coordinates:
    """The map theta -> (J^T J / n + damping)^(-1/2) theta, float32 on a device. rows: J [n, parameters]."""

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        _, values, directions = torch.linalg.svd(rows.double().cpu() / len(rows) ** 0.5, full_matrices=False)
        damping = DAMPING * float(values[0]) ** 2 or 1.0
        self.rest = damping**-0.5
        self.factors = ((values.square() + damping).rsqrt() - self.rest).float().to(device)
        self.directions = directions.float().to(device)

    def __call__(self, theta: Tensor) -> Tensor:
        return self.rest * theta + self.directions.T @ (self.factors * (self.directions @ theta))


def jacobian(plan: Plan, calibration: Calibration, begin: Trained, targets: Tensor, keep: bool) -> Tensor:
    """Random combinations of the rows of d x / d weights, x of the first samples in units of |x*|.

    The mean square of what a change of the weights does to the ends is that of these rows times it. begin: weights of
    each cell. targets: x* [n, C, H, W]. float64 [DRAWS * samples, weights] on the CPU.
    """
    generation, random, rows = calibration.seeded(), torch.Generator().manual_seed(calibration.seed), []
    times, samples = begin.times(generation.solver.grid.times.tolist()), min(LOOKED, len(targets))
    for first in range(0, samples, TOGETHER):
        chosen = range(first, min(first + TOGETHER, samples))
        sizes = targets[first : chosen.stop].flatten(1).norm(dim=1)
        weights = begin.weights.to(generation.device).unsqueeze(-1).repeat(1, 1, 1, 1, len(chosen)).requires_grad_()
        x = None
        for draw in range(DRAWS):
            if x is None or not keep:
                x = weighted_ends(plan, generation, chosen, weights, times, keep).flatten(1) / sizes[:, None]
            signs = (torch.randint(0, 2, x.shape, generator=random) * 2 - 1).to(x)
            (gradient,) = torch.autograd.grad(x, weights, signs, retain_graph=keep and draw < DRAWS - 1)
            rows.append(gradient.flatten(0, 3).T.double().cpu())
    return torch.cat(rows)


def of_each_cell(plan: Plan, trained: Trained) -> Trained:
    """The same with weights of each cell and shifts, which may be zero."""
    weights, shifts = trained
    if weights.dim() == 2:
        weights = weights[:, None, None].repeat(1, *plan.mask.shape[1:], 1)
    return Trained(weights, torch.zeros(len(weights), dtype=torch.float64) if shifts is None else shifts)


def fit(
    plan: Plan,
    calibration: Calibration,
    begin: Trained,
    iterations: int,
    batch: int,
    rate: float,
    keep: bool,
    progress: Progress | None,
    targets: Tensor,
) -> tuple[Trained, list[float]]:
    """Weights of each cell [evaluations, blocks, branches, K] and shifts, on the CPU, and the loss of each iteration.

    begin: where it starts. rate: of a step of a coordinate, in units of the distance there. targets: where the samples
    end without a cache [samples, C, H, W]. The others as for `goc.train.learning.descend`, which does it.
    """
    begin, generation = of_each_cell(plan, begin), calibration.seeded()
    times, device = generation.solver.grid.times.tolist(), generation.device
    moves = ~plan.mask.flatten(1).all(dim=1)  # shifts: of computed evaluations,
    moves[0] = moves[-1] = False  # between the first and the last
    assert begin.shifts is not None
    coordinates = Coordinates(jacobian(plan, calibration, begin, targets, keep), device)
    start = distance_of(plan, begin, calibration, range(min(LOOKED, len(targets))), targets[:LOOKED])
    weights, shifts = begin.weights.to(device), begin.shifts.clamp(-0.99, 0.99).atanh()
    theta = torch.zeros(weights.numel() + len(moves), device=device, requires_grad=True)

    def trained(theta: Tensor) -> Trained:
        of_weights, of_shifts = theta[: weights.numel()], theta[weights.numel() :]
        moved = weights + coordinates(start * of_weights).view_as(weights)  # what has no effect stays
        return Trained(moved, torch.where(moves, shifts + SPEED * of_shifts.cpu().double(), 0.0).tanh())

    def ends(chosen: Sequence[int]) -> Tensor:
        now = trained(theta)
        return weighted_ends(plan, generation, chosen, now.weights, now.times(times), keep)

    losses = descend(theta, ends, targets, calibration, iterations, batch, rate, "weights", progress)
    done = trained(theta.detach())
    return Trained(done.weights.cpu(), done.shifts), losses
