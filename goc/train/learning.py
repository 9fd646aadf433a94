"""The training of a few numbers through the whole sampler: the weights on computed features, or a solver's times."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import trange

from goc.caching.cache import StepCache
from goc.caching.predictor import Cell
from goc.models.network import Site, Terms
from goc.models.schedules import Trained
from goc.planning.plan import Plan
from goc.sampling.calibrate import Calibration
from goc.sampling.generation import Generation
from goc.sampling.guidance import Denoiser
from goc.sampling.search import final_latents, mean_distance
from goc.sampling.solvers import no_noise
from goc.sampling.training import Progress
from goc.train.starts import LENGTH, distance_of, start

Held = dict[Cell, tuple[Tensor, ...]]  # the last computed features of each cell, newest first


class WeightedCache(StepCache):
    """One evaluation's cache: stands in with weighted features, through which gradients flow.

    weights: of the cells in a cached evaluation, float [blocks, branches, K, ...] with [1] or [N, 1] at the end (each
    row's own), where 1 in place of blocks and branches is for all; None in a computed evaluation. held: its features
    before; `features`: after.
    """

    def __init__(self, site: Site, weights: Tensor | None, held: Held, length: int) -> None:
        super().__init__(site)
        self.weights, self.features, self.length = weights, dict(held), length
        if weights is not None:
            self.blocks, self.branches = weights.shape[:2]
            self.rows = [of_cell.unbind() for of_cell in weights.flatten(0, 1).unbind()]

    def lookup(self, block: int, branch: int) -> Terms | None:
        if self.weights is None:
            return None
        row = self.rows[block % self.blocks * self.branches + branch % self.branches]
        terms = [*zip(row, self.features[block, branch], strict=False)]
        if self.site == "stack":
            return [(1.0, torch.stack([weight.unsqueeze(-1) * feature for weight, feature in terms]).sum(dim=0))]
        return cast(Terms, terms)

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        cell = block, branch
        self.features[cell] = feature, *self.features.get(cell, ())[: self.length - 1]


def weighted_denoiser(
    generation: Generation,
    labels: Tensor,
    site: Site,
    cached: list[bool],
    weights: Tensor,
    keep: bool,
    times: Tensor | None = None,
) -> Denoiser:
    """The denoiser of samples with these labels [n], with predictions by weights, through which gradients flow.

    weights: [evaluations, K], or of each cell [evaluations, blocks, branches, K], or these of each sample [..., K, n].
    keep: activations are kept for the gradient, instead of being computed again. times: what the network is given in
    the evaluations; None: the solver's.
    """
    held: Held = {}
    rows = weights[:, None, None] if weights.dim() == 2 else weights
    length = rows.shape[3]
    if rows.dim() == 5 and generation.cfg_scale != 1:  # the rows of both halves
        rows = torch.cat([rows, rows], dim=-1)
    rows = rows.unsqueeze(-1)
    given = generation.solver.grid.times if times is None else times

    def evaluate(x: Tensor, i: int, row: Tensor, before: Held) -> tuple[Tensor, Held]:
        cache = WeightedCache(site, row if cached[i] else None, before, length)
        return generation.denoiser(labels, cache, given)(x, i), cache.features

    def denoise(x: Tensor, i: int) -> Tensor:
        nonlocal held
        if keep or not torch.is_grad_enabled():
            output, held = evaluate(x, i, rows[i], held)
        else:
            output, held = checkpoint(evaluate, x, i, rows[i], held, use_reentrant=False)
        return output

    return denoise


def weighted_ends(
    plan: Plan, generation: Generation, chosen: Sequence[int], weights: Tensor, times: Tensor | None, keep: bool
) -> Tensor:
    """Where samples with these indices end on a plan's schedule [n, C, H, W]; the others as for `weighted_denoiser`."""
    labels, gaussian = generation.drawn(chosen)
    cached = plan.mask.flatten(1).all(dim=1).tolist()
    *_, x = generation.solver.sample(
        weighted_denoiser(generation, labels, plan.site, cached, weights, keep, times), gaussian(), no_noise
    )
    return x


def descend(
    parameter: Tensor,
    ends: Callable[[Sequence[int]], Tensor],
    targets: Tensor,
    calibration: Calibration,
    iterations: int,
    batch: int,
    rate: float,
    what: str,
    progress: Progress | None = None,
) -> list[float]:
    """Adam with cosine decay on the mean distance to the targets [samples, C, H, W]; the loss of each iteration.

    parameter: what is trained, in place. ends: where samples with these indices end, through which gradients flow to
    it; they are drawn from the calibration's in an order that its seed decides. what: for the progress bar.
    progress: of this training, if it is kept on disk: then it goes on where it was stopped, to the same numbers.
    """
    optimizer = torch.optim.Adam([parameter], lr=rate)
    order = torch.Generator().manual_seed(calibration.seed)
    losses = [] if progress is None else progress.resume({"": parameter}, optimizer, order)
    bar = trange(len(losses), iterations, initial=len(losses), total=iterations, desc=what, unit="batch")
    for iteration in bar:
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * iteration / iterations)) / 2
        chosen = torch.randperm(calibration.samples, generator=order)[:batch].tolist()
        loss = mean_distance(ends(chosen), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if progress is not None:
            progress.keep({"": parameter}, optimizer, order, losses)
        bar.set_postfix(distance=f"{losses[-1]:.4f}")
    return losses


def train(
    plan: Plan,
    calibration: Calibration,
    iterations: int,
    batch: int,
    rate: float,
    keep: bool,
    progress: Progress | None = None,
    begin: Tensor | None = None,
    targets: Tensor | None = None,
) -> tuple[Tensor, list[float]]:
    """Weights [evaluations, K] on the CPU, and the loss of each iteration, by `descend`.

    begin: the weights at its start; None: as the plan's predictor does. targets: where the samples end without a cache
    [samples, C, H, W]; None: they are made.
    """
    generation = calibration.seeded()
    targets = (final_latents(calibration, None) if targets is None else targets).clone()
    begin = start(plan, LENGTH) if begin is None else begin.clone()
    weights = begin.to(generation.device).requires_grad_()

    def ends(chosen: Sequence[int]) -> Tensor:
        return weighted_ends(plan, generation, chosen, weights, None, keep)

    losses = descend(weights, ends, targets, calibration, iterations, batch, rate, "weights", progress)
    return weights.detach().cpu(), losses


def better(
    plan: Plan, calibration: Calibration, held: range, targets: Tensor, each: Sequence[Trained]
) -> tuple[int, list[float]]:
    """Which of some trainings ends closest to the targets [n, C, H, W] of held samples, and how far each does.

    held: their indices, which training has not seen. Of equals the first.
    """
    distances = [distance_of(plan, trained, calibration, held, targets) for trained in each]
    return distances.index(min(distances)), distances
