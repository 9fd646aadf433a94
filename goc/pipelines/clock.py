"""The noise level at a scheduler's timesteps, which changes can be taken against (clock=logsnr)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from goc.pipelines.session import PipelineError
from goc.sampling.flow import FlowTimes

TINY = 1e-6  # sigmas are kept so far off both ends


def log_snr(scheduler: Any, timesteps: Sequence[float]) -> list[float]:
    """Logarithm of the signal-to-noise ratio at each timestep of a diffusers scheduler.

    Of a diffusion process from its alphas_cumprod; of flow matching from its sigmas, ln((1 - sigma) / sigma), which are
    kept off both ends as goc/sampling/flow.py does. Raises PipelineError for a scheduler with neither.
    """
    sigmas = sigmas_of_flow(scheduler, timesteps)
    if sigmas is not None:
        return FlowTimes(1.0 - sigmas, len(timesteps)).log_snr.tolist()
    kept = kept_of_diffusion(scheduler, timesteps, "clock=logsnr", "use clock=step")
    return np.log(kept / (1.0 - kept)).tolist()


def noise_to_signal(scheduler: Any, timesteps: Sequence[float]) -> list[float]:
    """The scale of the noise over that of the signal at each timestep; as `log_snr`, but at both ends as it is."""
    sigmas = sigmas_of_flow(scheduler, timesteps)
    if sigmas is not None:
        inside = np.clip(sigmas, TINY, 1.0 - TINY)
        return (inside / (1.0 - inside)).tolist()
    kept = kept_of_diffusion(scheduler, timesteps, "schedule=seacache", "use another schedule")
    return np.sqrt((1.0 - kept) / kept).tolist()


def sigmas_of_flow(scheduler: Any, timesteps: Sequence[float]) -> np.ndarray | None:
    """The sigmas of a flow-matching scheduler at its timesteps; None for another."""
    flow = "Flow" in type(scheduler).__name__ or getattr(scheduler.config, "use_flow_sigmas", False)
    if not flow or not hasattr(scheduler, "sigmas"):
        return None
    sigmas = np.asarray([float(sigma) for sigma in scheduler.sigmas])
    return sigmas[: len(scheduler.timesteps)][-len(timesteps) :]


def kept_of_diffusion(scheduler: Any, timesteps: Sequence[float], asked: str, instead: str) -> np.ndarray:
    """alphas_cumprod of a diffusion process's scheduler at its timesteps; raises PipelineError for another."""
    if not hasattr(scheduler, "alphas_cumprod"):
        raise PipelineError(f"{asked}: {type(scheduler).__name__} does not say its noise levels; {instead}")
    return np.asarray(scheduler.alphas_cumprod, dtype=np.float64)[[round(t) for t in timesteps]]
