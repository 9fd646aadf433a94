"""Solvers: from noise to a sample, one step after the other, with one or two network evaluations in each.

Ours are DDIM and DDPM, whose every digit the published protocol depends on, and the fixed-step methods of flow
matching. DPM-Solver and UniPC are diffusers' (multistep.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from goc.sampling.flow import FlowTimes
from goc.sampling.guidance import Denoiser
from goc.sampling.noise import NoiseSchedule

Noise = Callable[[], Tensor]  # Gaussian noise [N, C, H, W], another in every call


def no_noise() -> Tensor:
    """What deterministic solvers can be given for noise, as they never ask for it."""
    raise AssertionError("a deterministic solver asks for no noise")


class Grid(Protocol):
    """Where the network is evaluated; arrays [evaluations]."""

    @property
    def times(self) -> np.ndarray:
        """What the network is given."""

    @property
    def log_snr(self) -> np.ndarray:
        """Logarithm of the signal-to-noise ratio; never falls, and is equal only where two evaluations are."""

    def __len__(self) -> int: ...


class Solver(ABC):
    """A way from noise to a sample, without state: any number of batches may be sampled with one.

    grid: where its network evaluations are. steps: how many it takes, each with as many evaluations.
    """

    evaluations_per_step = 1
    needs_variance = False  # whether it uses the second half of the network's output

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.steps = len(grid) // self.evaluations_per_step

    @abstractmethod
    def sample(self, denoise: Denoiser, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        """From Gaussian noise x [N, C, H, W], yields x after each step.

        denoise(x, i) is the network at the grid's evaluation i; noise is only asked by stochastic solvers.
        """


def predict_x0(schedule: NoiseSchedule, i: int, x: Tensor, eps: Tensor) -> Tensor:
    """The clean image implied by the noise estimate; x and eps [N, C, H, W]. Never clipped."""
    alpha_bar = schedule.alphas_cumprod[i]
    return float(np.sqrt(1.0 / alpha_bar)) * x - float(np.sqrt(1.0 / alpha_bar - 1.0)) * eps


def ddim_step(schedule: NoiseSchedule, i: int, x: Tensor, output: Tensor) -> Tensor:
    """Deterministic DDIM update, eta = 0 (Song et al., arXiv 2010.02502, eq. 12).

    x [N, C, H, W]; output [N, 2C, H, W] of the denoiser (its variance half is not used). Returns x after step i.
    """
    eps = output[:, : x.shape[1]]
    alpha_bar_prev = schedule.alphas_cumprod_prev[i]
    x0 = predict_x0(schedule, i, x, eps)
    return float(np.sqrt(alpha_bar_prev)) * x0 + float(np.sqrt(1.0 - alpha_bar_prev)) * eps


def ddpm_log_variance(schedule: NoiseSchedule, i: int, v: Tensor) -> Tensor:
    """Learned-range log variance: v in [-1, 1] interpolates between posterior and beta (arXiv 2102.09672, eq. 15)."""
    fraction = (v + 1) / 2
    return fraction * float(np.log(schedule.betas[i])) + (1 - fraction) * float(schedule.posterior_log_variance[i])


def ddpm_mean(schedule: NoiseSchedule, i: int, x: Tensor, x0: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0) (Ho et al., arXiv 2006.11239, eq. 7)."""
    alpha_bar, alpha_bar_prev = schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i]
    beta = schedule.betas[i]
    x0_weight = beta * np.sqrt(alpha_bar_prev) / (1.0 - alpha_bar)
    x_weight = (1.0 - alpha_bar_prev) * np.sqrt(1.0 - beta) / (1.0 - alpha_bar)
    return float(x0_weight) * x0 + float(x_weight) * x


def ddpm_step(schedule: NoiseSchedule, i: int, x: Tensor, output: Tensor, noise: Tensor) -> Tensor:
    """Ancestral update with learned variance; noise ~ N(0, 1) [N, C, H, W] is not added in the last step."""
    eps, v = output.chunk(2, dim=1)
    mean = ddpm_mean(schedule, i, x, predict_x0(schedule, i, x, eps))
    if i == len(schedule) - 1:
        return mean
    return mean + torch.exp(0.5 * ddpm_log_variance(schedule, i, v)) * noise


class DiffusionSolver(Solver):
    """A solver of one evaluation a step, at the noise levels of a schedule."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self.schedule = schedule


class DDIM(DiffusionSolver):
    """DDIM with eta = 0."""

    def sample(self, denoise: Denoiser, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.steps):
            x = ddim_step(self.schedule, i, x, denoise(x, i))
            yield x


class DDPM(DiffusionSolver):
    """DDPM with learned variance."""

    needs_variance = True

    def sample(self, denoise: Denoiser, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.steps):
            x = ddpm_step(self.schedule, i, x, denoise(x, i), noise())
            yield x


class FlowSolver(Solver):
    """A method for dx/dt = v(x, t) from t = 0 to 1, in so many equal steps, or in those of a grid."""

    within: Sequence[float]  # where in a step its evaluations are

    def __init__(self, steps: int | FlowTimes) -> None:
        grid = steps if isinstance(steps, FlowTimes) else FlowTimes.of(steps, self.within)
        super().__init__(grid)
        self.lengths = grid.lengths.tolist()

    def __init_subclass__(cls) -> None:
        cls.evaluations_per_step = len(cls.within)

    def sample(self, denoise: Denoiser, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        channels = x.shape[1]
        for step, dt in enumerate(self.lengths):
            first = step * self.evaluations_per_step

            def velocity(x: Tensor, evaluation: int, first: int = first) -> Tensor:
                return denoise(x, first + evaluation)[:, :channels]

            x = x + dt * self.slope(velocity, x, dt)
            yield x

    @abstractmethod
    def slope(self, velocity: Callable[[Tensor, int], Tensor], x: Tensor, dt: float) -> Tensor:
        """What a step of length dt from x [N, C, H, W] moves along; velocity(x, k) is its k-th evaluation."""


class Euler(FlowSolver):
    """Euler's method, of first order: x + dt v(x, t)."""

    within = (0.0,)

    def slope(self, velocity: Callable[[Tensor, int], Tensor], x: Tensor, dt: float) -> Tensor:
        return velocity(x, 0)


class Heun(FlowSolver):
    """Heun's method, of second order: x + dt/2 (v(x, t) + v(x + dt v(x, t), t + dt))."""

    within = (0.0, 1.0)

    def slope(self, velocity: Callable[[Tensor, int], Tensor], x: Tensor, dt: float) -> Tensor:
        first = velocity(x, 0)
        return 0.5 * (first + velocity(x + dt * first, 1))


class Midpoint(FlowSolver):
    """The midpoint method, of second order: x + dt v(x + dt/2 v(x, t), t + dt/2)."""

    within = (0.0, 0.5)

    def slope(self, velocity: Callable[[Tensor, int], Tensor], x: Tensor, dt: float) -> Tensor:
        return velocity(x + 0.5 * dt * velocity(x, 0), 1)
