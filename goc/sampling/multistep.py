"""DPM-Solver and UniPC, diffusers' schedulers, on this project's noise schedule."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from goc.sampling.guidance import Denoiser
from goc.sampling.noise import NoiseSchedule, linear_betas
from goc.sampling.solvers import DiffusionSolver, Noise


class Multistep(DiffusionSolver):
    """A scheduler of diffusers that is given the noise estimate, one a step.

    make: a scheduler with its settings, for the training betas. schedule: the noise levels and timesteps of its steps,
    in place of its own; after the last it goes to noise zero, as DDIM does.
    """

    def __init__(self, make: Callable[[], Any], schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self.make = make

    def scheduler(self, device: torch.device | str = "cpu") -> Any:
        """diffusers' scheduler at the start of a trajectory."""
        scheduler = self.make()
        scheduler.set_timesteps(self.steps, device=device)
        scheduler.timesteps = torch.as_tensor(self.schedule.timesteps.copy(), device=device)
        scheduler.sigmas = torch.cat([torch.as_tensor(self.schedule.sigmas), torch.zeros(1)]).float()
        scheduler.set_begin_index(0)
        return scheduler

    def sample(self, denoise: Denoiser, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        scheduler = self.scheduler(x.device)
        for i, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step(denoise(x, i)[:, : x.shape[1]], timestep, x).prev_sample
            yield x


def even_in_log_snr(steps: int) -> NoiseSchedule:
    """Steps at evenly spaced log signal-to-noise ratios, with both ends of the training schedule (arXiv 2211.01095).

    As diffusers has them (use_lu_lambdas): the network is given the training timestep whose noise level is closest.
    """
    spaced = DPMSolverMultistepScheduler(trained_betas=linear_betas(), use_lu_lambdas=True)
    spaced.set_timesteps(steps)
    alphas_cumprod = 1.0 / (1.0 + spaced.sigmas[:-1].double().numpy() ** 2)
    return NoiseSchedule(spaced.timesteps.numpy(), alphas_cumprod, np.append(alphas_cumprod[1:], 1.0))


def dpm_solver(schedule: NoiseSchedule, order: int) -> Multistep:
    """DPM-Solver++(2M) or (3M) (Lu et al., arXiv 2211.01095, algorithm 2): order 2 or 3."""
    return Multistep(partial(DPMSolverMultistepScheduler, trained_betas=linear_betas(), solver_order=order), schedule)


def unipc(schedule: NoiseSchedule, order: int) -> Multistep:
    """UniPC, predictor and corrector with B(h) = exp(h) - 1 (Zhao et al., arXiv 2302.04867): order 2 or 3."""
    return Multistep(partial(UniPCMultistepScheduler, trained_betas=linear_betas(), solver_order=order), schedule)
