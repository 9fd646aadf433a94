"""Classifier-free guidance: from a class-conditional network to the denoiser that a sampler asks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from goc.caching.halves import HalfCaches

# (x [N, C, H, W], evaluation) -> output [N, 2C, H, W]; [N, C, H, W] of a network without a learned variance
Denoiser = Callable[[Tensor, int], Tensor]


def guide(output: Tensor, scale: float, channels: int) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) on the first channels of the noise or velocity.

    output [2N, 2C, H, W]: conditional half, then unconditional. Returns [N, 2C, H, W]; the remaining channels and
    the variance are the conditional ones. The published protocol guides 3 channels (of 4). channels: at most C.
    """
    cond, uncond = output.chunk(2)
    guided = uncond[:, :channels] + scale * (cond[:, :channels] - uncond[:, :channels])
    return torch.cat([guided, cond[:, channels:]], dim=1)


def guided_denoiser(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    times: np.ndarray | Tensor,
    labels: Tensor,
    null_label: int,
    cfg_scale: float,
    cfg_channels: int,
) -> Denoiser:
    """A function (x, i) -> output [N, 2C, H, W]; at cfg_scale 1 the unconditional half is not computed.

    model(x, t, y) is the denoiser; labels [N] its condition; times [evaluations] what it is given as t.
    """
    given = torch.as_tensor(times, device=labels.device)
    guided = cfg_scale != 1.0
    y = torch.cat([labels, torch.full_like(labels, null_label)]) if guided else labels

    def denoise(x: Tensor, i: int) -> Tensor:
        t = given[i : i + 1]
        if not guided:
            return model(x, t, y)
        return guide(model(torch.cat([x, x]), t, y), cfg_scale, min(cfg_channels, x.shape[1]))

    return denoise


def halved_denoiser(
    conditional: Denoiser, unconditional: Denoiser, caches: HalfCaches, cfg_scale: float, cfg_channels: int
) -> Denoiser:
    """The guided denoiser of two halves, of which the unconditional one is not evaluated everywhere.

    Without it, where there is guidance, what is guided is cond + (scale - 1) difference, with the difference predicted
    that cond has to it.
    """

    def denoise(x: Tensor, i: int) -> Tensor:
        cond, channels = conditional(x, i), min(cfg_channels, x.shape[1])
        if not caches.halves.guided[i]:
            return cond
        if caches.halves.evaluated[i]:
            uncond = unconditional(x, i)
            caches.store_difference(i, cond[:, :channels] - uncond[:, :channels])
            return guide(torch.cat([cond, uncond]), cfg_scale, channels)
        guided = cond[:, :channels] + (cfg_scale - 1) * caches.predicted_difference(i)
        return torch.cat([guided, cond[:, channels:]], dim=1)

    return denoise
