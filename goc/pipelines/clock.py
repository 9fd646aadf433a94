"""The noise level at a scheduler's timesteps, which changes can be taken against (clock=logsnr)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from goc.pipelines.session import PipelineError
from goc.sampling.flow import FlowTimes


def log_snr(scheduler: Any, timesteps: Sequence[float]) -> list[float]:
    """Logarithm of the signal-to-noise ratio at each timestep of a diffusers scheduler.

    Of a diffusion process from its alphas_cumprod; of flow matching from its sigmas, ln((1 - sigma) / sigma), which are
    kept off both ends as goc/sampling/flow.py does. Raises PipelineError for a scheduler with neither.
    """
    flow = "Flow" in type(scheduler).__name__ or getattr(scheduler.config, "use_flow_sigmas", False)
    if flow and hasattr(scheduler, "sigmas"):
        sigmas = np.asarray([float(sigma) for sigma in scheduler.sigmas])
        sigmas = sigmas[: len(scheduler.timesteps)][-len(timesteps) :]
        return FlowTimes(1.0 - sigmas, len(timesteps)).log_snr.tolist()
    if hasattr(scheduler, "alphas_cumprod"):
        kept = np.asarray(scheduler.alphas_cumprod, dtype=np.float64)[[round(t) for t in timesteps]]
        return np.log(kept / (1.0 - kept)).tolist()
    raise PipelineError(f"clock=logsnr: {type(scheduler).__name__} does not say its noise levels; use clock=step")
