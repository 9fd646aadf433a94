"""The training of a few numbers through the whole sampler: the weights on computed features, or a solver's times."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import trange

from goc.caching.cache import StepCache
from goc.caching.predictor import Cell
from goc.models.network import Site, Terms
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

    weights: float [K] in a cached evaluation, None in a computed one. held: its features before; `features`: after.
    """

    def __init__(self, site: Site, weights: Tensor | None, held: Held, length: int) -> None:
        super().__init__(site)
        self.weights, self.features, self.length = weights, dict(held), length

    def lookup(self, block: int, branch: int) -> Terms | None:
        if self.weights is None:
            return None
        features = self.features[block, branch]
        weighted = [weight * feature for weight, feature in zip(self.weights, features, strict=False)]
        return [(1.0, torch.stack(weighted).sum(dim=0))]

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        cell = block, branch
        self.features[cell] = feature, *self.features.get(cell, ())[: self.length - 1]


def weighted_denoiser(
    generation: Generation, labels: Tensor, site: Site, cached: list[bool], weights: Tensor, keep: bool
) -> Denoiser:
    """The denoiser of samples with these labels [n], with predictions by weights [evaluations, K].

    keep: activations are kept for the gradient, instead of being computed again.
    """
    held: Held = {}

    def evaluate(x: Tensor, i: int, row: Tensor, before: Held) -> tuple[Tensor, Held]:
        cache = WeightedCache(site, row if cached[i] else None, before, weights.shape[1])
        return generation.denoiser(labels, cache, generation.solver.grid.times)(x, i), cache.features

    def denoise(x: Tensor, i: int) -> Tensor:
        nonlocal held
        if keep or not torch.is_grad_enabled():
            output, held = evaluate(x, i, weights[i], held)
        else:
            output, held = checkpoint(evaluate, x, i, weights[i], held, use_reentrant=False)
        return output

    return denoise


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
    generation, cached = calibration.seeded(), plan.mask.flatten(1).all(dim=1).tolist()
    targets = (final_latents(calibration, None) if targets is None else targets).clone()
    begin = start(plan, LENGTH) if begin is None else begin.clone()
    weights = begin.to(generation.device).requires_grad_()

    def ends(chosen: Sequence[int]) -> Tensor:
        labels, gaussian = generation.drawn(chosen)
        denoise = weighted_denoiser(generation, labels, plan.site, cached, weights, keep)
        *_, x = generation.solver.sample(denoise, gaussian(), no_noise)
        return x

    losses = descend(weights, ends, targets, calibration, iterations, batch, rate, "weights", progress)
    return weights.detach().cpu(), losses


def better(
    plan: Plan, calibration: Calibration, held: range, targets: Tensor, each: Sequence[Tensor]
) -> tuple[int, list[float]]:
    """Which of some weights ends closest to the targets [n, C, H, W] of held samples, and how far each does.

    held: their indices, which training has not seen. Of equals the first.
    """
    distances = [distance_of(plan, weights, calibration, held, targets) for weights in each]
    return distances.index(min(distances)), distances
