"""Where samples are to end that something is trained towards."""

from torch import Tensor

from goc.config import Config
from goc.runs.denoiser import solution_key
from goc.sampling.calibrate import Calibration
from goc.sampling.converged import converged

UNCACHED, CONVERGED = "uncached", "converged"


def converged_targets(config: Config, calibration: Calibration, count: int) -> Tensor:
    """Where the calibration's first samples end with the converged solution [count, C, H, W], from disk if it is known.

    What distances `to converged` are measured to.
    """
    objective, key = config.measurement.model.objective, solution_key(calibration.key)
    return converged(calibration.seeded(), objective, key, count, calibration.cache_dir).latents
