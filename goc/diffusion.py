"""Noise schedule, timestep respacing, the DDIM and DDPM updates, and classifier-free guidance.

The published caching results depend on these exact formulas (Nichol & Dhariwal, arXiv 2102.09672, as used by DiT);
step i = 0 is the noisiest, i = T - 1 the last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

TRAINING_STEPS = 1000

SamplerName = Literal["ddim", "ddpm"]
Denoiser = Callable[[Tensor, int], Tensor]


def linear_betas() -> np.ndarray:
    """The 1000 training betas, linear from 1e-4 to 2e-2, float64 [1000]."""
    return np.linspace(1e-4, 2e-2, TRAINING_STEPS, dtype=np.float64)


@dataclass(frozen=True)
class NoiseSchedule:
    """A respaced schedule of T steps; every array is float64 [T], indexed by sampling step i (0 = noisiest)."""

    timesteps: np.ndarray  # the training timestep of each step, int64
    alphas_cumprod: np.ndarray  # alpha-bar at the step
    alphas_cumprod_prev: np.ndarray  # alpha-bar after the update (1 after the last)

    @classmethod
    def respaced(cls, steps: int) -> "NoiseSchedule":
        """T steps at training timesteps round(j * 999 / (T-1)), j = 0..T-1; raises ValueError outside 2..1000."""
        if not 2 <= steps <= TRAINING_STEPS:
            raise ValueError(f"steps={steps}: must be in [2, {TRAINING_STEPS}]")
        timesteps = np.array([round(j * (TRAINING_STEPS - 1) / (steps - 1)) for j in range(steps)])
        alphas_cumprod = np.cumprod(1.0 - linear_betas())[timesteps]
        previous = np.append(1.0, alphas_cumprod[:-1])
        return cls(timesteps[::-1].copy(), alphas_cumprod[::-1].copy(), previous[::-1].copy())

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def log_snr(self) -> np.ndarray:
        """Logarithm of the signal-to-noise ratio, 0.5 ln(alpha-bar / (1 - alpha-bar)); grows from step to step."""
        return 0.5 * np.log(self.alphas_cumprod / (1.0 - self.alphas_cumprod))

    @property
    def betas(self) -> np.ndarray:
        """Variance added between this step's noise level and the next one's."""
        return 1.0 - self.alphas_cumprod / self.alphas_cumprod_prev

    @property
    def posterior_variance(self) -> np.ndarray:
        """Variance of q(x_{t-1} | x_t, x_0); zero at the last step."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @property
    def posterior_log_variance(self) -> np.ndarray:
        """Its logarithm, with the zero of the last step replaced by the step before it."""
        variance = self.posterior_variance
        return np.log(np.append(variance[:-1], variance[-2]))


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


def guide(output: Tensor, scale: float, channels: int) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) on the first channels of the noise estimate.

    output [2N, 2C, H, W]: conditional half, then unconditional. Returns [N, 2C, H, W]; the remaining channels and
    the variance are the conditional ones. The published protocol guides 3 channels (of 4).
    """
    cond, uncond = output.chunk(2)
    channels = min(channels, cond.shape[1] // 2)
    guided = uncond[:, :channels] + scale * (cond[:, :channels] - uncond[:, :channels])
    return torch.cat([guided, cond[:, channels:]], dim=1)


def guided_denoiser(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    labels: Tensor,
    null_label: int,
    cfg_scale: float,
    cfg_channels: int,
) -> Denoiser:
    """A function (x, i) -> output [N, 2C, H, W]; at cfg_scale 1 the unconditional half is not computed.

    model(x, t, y) is the denoiser; labels [N] its condition.
    """
    timesteps = torch.as_tensor(schedule.timesteps, device=labels.device)
    guided = cfg_scale != 1.0
    y = torch.cat([labels, torch.full_like(labels, null_label)]) if guided else labels

    def denoise(x: Tensor, i: int) -> Tensor:
        t = timesteps[i : i + 1]
        if not guided:
            return model(x, t, y)
        return guide(model(torch.cat([x, x]), t, y), cfg_scale, cfg_channels)

    return denoise


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
