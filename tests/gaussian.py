"""Data whose pixels are all N(MEAN, STD^2): what a perfect network says of them, by Bayes' rule."""

import numpy as np
import torch
from torch import Tensor

from goc.sampling.guidance import Denoiser
from goc.sampling.noise import NoiseSchedule

MEAN, STD = 0.7, 0.4


def gaussian_noise(schedule: NoiseSchedule, std: float = STD) -> Denoiser:
    """The exact noise estimate, E[noise | x], at each step's noise level; std: of the data."""

    def denoise(x: Tensor, i: int) -> Tensor:
        alpha_bar = float(schedule.alphas_cumprod[i])
        eps = (x - alpha_bar**0.5 * MEAN) * (1 - alpha_bar) ** 0.5 / (alpha_bar * std**2 + 1 - alpha_bar)
        return torch.cat([eps, torch.zeros_like(eps)], dim=1)

    return denoise


def gaussian_velocity(times: np.ndarray) -> Denoiser:
    """The exact velocity of flow matching, E[data - noise | x_t], at these times."""

    def denoise(x: Tensor, i: int) -> Tensor:
        t = float(times[i])
        variance = (t * STD) ** 2 + (1 - t) ** 2
        velocity = MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)
        return torch.cat([velocity, torch.zeros_like(x)], dim=1)

    return denoise
