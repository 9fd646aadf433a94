"""The DDIM and DDPM updates, and the loop that samples with them."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from goc.sampling.guidance import Denoiser
from goc.sampling.noise import NoiseSchedule

SamplerName = Literal["ddim", "ddpm"]


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


def sample(
    denoise: Denoiser,
    x: Tensor,
    schedule: NoiseSchedule,
    sampler: SamplerName = "ddim",
    noise: Callable[[int], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Run the sampler from x_T [N, C, H, W], yielding x after each of the T updates.

    noise(i) gives the Gaussian noise [N, C, H, W] of step i; only DDPM asks for it.
    """
    for i in range(len(schedule)):
        output = denoise(x, i)
        if sampler == "ddim":
            x = ddim_step(schedule, i, x, output)
        else:
            if noise is None:
                raise ValueError("sampler=ddpm needs a source of noise")
            x = ddpm_step(schedule, i, x, output, noise(i))
        yield x
