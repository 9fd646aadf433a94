"""The converged solution: where DDIM goes with its step size to zero, the yardstick of every sampler and cache.

DDIM with eta = 0 is Euler's method for dy/dsigma = eps(x, t), y = x / sqrt(alpha-bar) and
sigma = sqrt((1 - alpha-bar) / alpha-bar) (Song et al., arXiv 2010.02502, eq. 14), from the first training timestep,
999, to the last, 0; then it takes one step to sigma = 0, the same for every number of steps. Here a method of third
order solves the same equation on few of the training timesteps, and ends with the same step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from goc.sampling.generation import Generation
from goc.sampling.guidance import Denoiser
from goc.sampling.noise import TRAINING_STEPS, NoiseSchedule
from goc.sampling.shared import shared_tensors
from goc.sampling.solvers import ddim_step
from goc.system.errors import GocError

ORDER = 3
INTERVALS = 200  # of the finer grid; the coarser has half of them
BATCH_SIZE = 64  # fixed, as rounding depends on it
KIND = "converged"


@dataclass(frozen=True)
class Converged:
    """Where the samples go with DDIM's step size to zero, and how well that is known.

    latents: float32 [samples, C, H, W], on the CPU. accuracy: mean over the samples of |x_h - x_h/2| / |x_h/2|, from
    two grids, of which the finer gave the latents; it estimates the error of the coarser, so theirs is smaller.
    evaluations: of the network, for each sample, on both grids (a guided one counts once).
    """

    latents: Tensor
    accuracy: float
    evaluations: int


def converging_grid(intervals: int) -> NoiseSchedule:
    """The training timesteps round(j + (999 - n) (j / n)^2), j = n..0: steps grow from 1 at t = 0 to about 1998 / n.

    DDIM's own even steps hold up convergence near t = 0, where one of them changes sigma by a large factor. Every
    second of these timesteps is a grid of the same form. Raises ValueError unless n = intervals is in 1..999.
    """
    last = TRAINING_STEPS - 1
    if not 1 <= intervals <= last:
        raise ValueError(f"intervals={intervals}: must be in [1, {last}]")
    j = np.arange(intervals, -1, -1)
    return NoiseSchedule.at(np.rint(j + (last - intervals) * (j / intervals) ** 2).astype(np.int64))


def adams_weights(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """w such that sum w_k f(node_k) is the integral from start to end of the polynomial through f at the nodes.

    For nodes up to `start` this is the Adams-Bashforth method with uneven steps, and with `end` among them that of
    Adams and Moulton (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, III.5).
    """
    scaled = (np.asarray(nodes) - start) / (end - start)
    moments = 1.0 / np.arange(1, len(nodes) + 1)
    return [float(weight) for weight in (end - start) * np.linalg.solve(np.vander(scaled, increasing=True).T, moments)]


def solve(denoise: Denoiser, x: Tensor, schedule: NoiseSchedule) -> Tensor:
    """DDIM's equation solved from x_T [N, C, H, W] to the clean image, with an error of third order in the step size.

    An Adams-Bashforth prediction, one evaluation there, and the Adams-Moulton correction (mode PEC), each of third
    order as soon as there is a history: T evaluations in all. The last step, to sigma = 0, is DDIM's.
    """
    scale = np.sqrt(schedule.alphas_cumprod)
    sigma = np.sqrt(1.0 - schedule.alphas_cumprod) / scale
    history: list[tuple[float, Tensor]] = []  # sigma and eps, newest first

    def advance(start: Tensor, i: int) -> Tensor:
        """x at step i + 1 from x at step i, by what history there is."""
        weights = adams_weights([node for node, _ in history], sigma[i], sigma[i + 1])
        moved = float(scale[i + 1] / scale[i]) * start
        for weight, (_, eps) in zip(weights, history, strict=True):
            moved = moved + float(scale[i + 1]) * weight * eps
        return moved

    start = x
    for i in range(len(schedule)):
        output = denoise(x, i)
        history = [(sigma[i], output[:, : x.shape[1]]), *history[: ORDER - 1]]
        if i > 0:
            start = advance(start, i - 1)
        if i < len(schedule) - 1:
            x = advance(start, i)
    return ddim_step(schedule, len(schedule) - 1, start, output)


@torch.inference_mode()
def converged(generation: Generation, key: dict[str, Any], samples: int, cache_dir: Path) -> Converged:
    """The converged solution of samples 0..samples-1; from disk if any run of the measurement made it before.

    Noise and labels are those of the generation's trajectories, and so are network and guidance; its sampler, steps and
    cache have no part in it. key: what trajectories depend on apart from the seeds, without sampler, steps and
    batch_size. Shows progress, rate and ETA. Raises GocError when values stop being finite.
    """
    fine = converging_grid(INTERVALS)
    grids = [NoiseSchedule.at(fine.timesteps[::2]), fine]
    evaluations = sum(len(grid) for grid in grids)
    batches = [range(first, min(first + BATCH_SIZE, samples)) for first in range(0, samples, BATCH_SIZE)]

    def solution(indices: range, grid: NoiseSchedule, progress: "tqdm[Any]") -> Tensor:
        """Of one batch on one grid, float32 [n, C, H, W] on the CPU."""
        labels, gaussian = generation.drawn(indices)
        denoise = replace(generation, schedule=grid).denoiser(labels, None)

        def counted(x: Tensor, i: int) -> Tensor:
            progress.update()
            return denoise(x, i)

        x = solve(counted, gaussian(), grid).cpu()
        if not x.isfinite().all():
            raise GocError(f"samples {indices.start}..{indices.stop - 1}: the converged solution is not finite")
        return x

    def make() -> dict[str, Tensor]:
        with tqdm(total=evaluations * len(batches), desc="converged solution", unit="eval") as progress:
            coarse, latents = (torch.cat([solution(indices, grid, progress) for indices in batches]) for grid in grids)
        change = (coarse - latents).flatten(1).norm(dim=1) / latents.flatten(1).norm(dim=1)
        return {"latents": latents, "accuracy": change.double().mean()}

    method = {"order": ORDER, "intervals": INTERVALS, "batch_size": BATCH_SIZE}
    key = {**key, "seed": generation.seed, "samples": samples, "method": method}
    made = shared_tensors(cache_dir, KIND, key, {"latents", "accuracy"}, make)
    return Converged(made["latents"], made["accuracy"].item(), evaluations)
