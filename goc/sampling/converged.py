"""The converged solution: where the samples go with the step size to zero, the yardstick of every solver and cache.

Diffusion: DDIM with eta = 0 is Euler's method for dy/dsigma = eps(x, t), y = x / sqrt(alpha-bar) and
sigma = sqrt((1 - alpha-bar) / alpha-bar) (Song et al., arXiv 2010.02502, eq. 14), from the first training timestep,
999, to the last, 0; then it takes one step to sigma = 0, the same for every number of steps. Flow matching:
dx/dt = v(x, t) from t = 0 to 1. Here a method of third order solves the same equation on a fine grid; for diffusion
that is one of training timesteps, and ends with the same step.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from goc.models.objective import FLOW
from goc.sampling.distance import relative_distances
from goc.sampling.generation import Generation
from goc.sampling.guidance import Denoiser
from goc.sampling.noise import TRAINING_STEPS, NoiseSchedule
from goc.sampling.shared import shared_tensors
from goc.sampling.solvers import ddim_step
from goc.system.errors import GocError, memory_for

ORDER = 3
INTERVALS = 200  # of the finer grid; the coarser has half of them
FLOW_INTERVALS = 100
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


class Equation(ABC):
    """dy/ds = f on a grid of `nodes` s [n + 1], where y = x / scales: f is the first half of the network's output.

    times: what the network is given at the nodes.
    """

    nodes: np.ndarray
    scales: np.ndarray
    times: np.ndarray
    name = ""  # in the key of what is kept; the first one's has none

    @abstractmethod
    def halved(self) -> "Equation":
        """The same on every second node."""

    def end(self, x: Tensor, output: Tensor) -> Tensor:
        """The clean image, from x [N, C, H, W] at the last node and the network's output before its correction."""
        return x


class DiffusionEquation(Equation):
    """DDIM's, on a schedule of training timesteps."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.nodes, self.scales, self.times = schedule.sigmas, np.sqrt(schedule.alphas_cumprod), schedule.times

    def halved(self) -> Equation:
        return DiffusionEquation(NoiseSchedule.at(self.schedule.timesteps[::2]))

    def end(self, x: Tensor, output: Tensor) -> Tensor:
        return ddim_step(self.schedule, len(self.schedule) - 1, x, output)


class FlowEquation(Equation):
    """Flow matching's, at t = 1 - (1 - j / n)^2: its steps become shorter towards the data, where the velocity turns.

    Equal steps have two hundred times the error on the digits.
    """

    name = "flow"

    def __init__(self, intervals: int) -> None:
        self.nodes = self.times = 1.0 - (1.0 - np.arange(intervals + 1) / intervals) ** 2
        self.scales = np.ones_like(self.nodes)

    def halved(self) -> Equation:
        return FlowEquation((len(self.nodes) - 1) // 2)


def fine_equation(objective: str) -> Equation:
    """The equation of a training objective, on the finer of the two grids."""
    return FlowEquation(FLOW_INTERVALS) if objective == FLOW else DiffusionEquation(converging_grid(INTERVALS))


def solve(denoise: Denoiser, x: Tensor, equation: Equation) -> Tensor:
    """The equation solved from noise x [N, C, H, W] to the clean image, with an error of third order in the step size.

    An Adams-Bashforth prediction, one evaluation there, and the Adams-Moulton correction (mode PEC), each of third
    order as soon as there is a history: as many evaluations as nodes.
    """
    nodes, scales = equation.nodes, equation.scales
    history: list[tuple[float, Tensor]] = []  # node and f, newest first

    def advance(start: Tensor, i: int) -> Tensor:
        """x at node i + 1 from x at node i, by what history there is."""
        weights = adams_weights([node for node, _ in history], nodes[i], nodes[i + 1])
        moved = float(scales[i + 1] / scales[i]) * start
        for weight, (_, slope) in zip(weights, history, strict=True):
            moved = moved + float(scales[i + 1]) * weight * slope
        return moved

    start = x
    for i in range(len(nodes)):
        output = denoise(x, i)
        history = [(nodes[i], output[:, : x.shape[1]]), *history[: ORDER - 1]]
        if i > 0:
            start = advance(start, i - 1)
        if i < len(nodes) - 1:
            x = advance(start, i)
    return equation.end(start, output)


def evaluations_of(objective: str) -> int:
    """How many evaluations of the network the converged solution takes, for each sample, on both grids."""
    fine = fine_equation(objective)
    return len(fine.halved().nodes) + len(fine.nodes)


@torch.inference_mode()
def converged(generation: Generation, objective: str, key: dict[str, Any], samples: int, cache_dir: Path) -> Converged:
    """The converged solution of samples 0..samples-1; from disk if any run of the measurement made it before.

    Noise and labels are those of the generation's trajectories, and so are network and guidance; its solver and cache
    have no part in it. objective: what the network was trained for. key: what trajectories depend on apart from the
    seeds, without sampler, steps and batch_size. Shows progress, rate and ETA. Raises GocError when values stop being
    finite.
    """
    fine = fine_equation(objective)
    equations = [fine.halved(), fine]
    evaluations = evaluations_of(objective)
    batches = [range(first, min(first + BATCH_SIZE, samples)) for first in range(0, samples, BATCH_SIZE)]

    def solution(indices: range, equation: Equation, progress: "tqdm[Any]") -> Tensor:
        """Of one batch on one grid, float32 [n, C, H, W] on the CPU."""
        labels, gaussian = generation.drawn(indices)
        denoise = generation.denoiser(labels, None, equation.times)

        def counted(x: Tensor, i: int) -> Tensor:
            progress.update()
            return denoise(x, i)

        x = solve(counted, gaussian(), equation).cpu()
        if not x.isfinite().all():
            raise GocError(f"samples {indices.start}..{indices.stop - 1}: the converged solution is not finite")
        return x

    def make() -> dict[str, Tensor]:
        with tqdm(total=evaluations * len(batches), desc="converged solution", unit="eval") as progress:
            coarse, latents = (
                torch.cat([solution(indices, equation, progress) for indices in batches]) for equation in equations
            )
        return {"latents": latents, "accuracy": relative_distances(coarse, latents).double().mean()}

    method: dict[str, int | str] = {"order": ORDER, "intervals": len(fine.nodes) - 1, "batch_size": BATCH_SIZE}
    method |= {"path": fine.name} if fine.name else {}
    key = {**key, "seed": generation.seed, "samples": samples, "method": method}
    with memory_for(f"converged_samples={samples}", f"choose fewer than {BATCH_SIZE}, the size of its batches, or 0"):
        made = shared_tensors(cache_dir, KIND, key, {"latents", "accuracy"}, make)
    return Converged(made["latents"], made["accuracy"].item(), evaluations)
