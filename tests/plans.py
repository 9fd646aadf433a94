"""The plan of some settings on a small random model."""

from pathlib import Path

import torch
from composing import config_of

from goc.config import validate
from goc.models.dit import DiT
from goc.planning.denoiser import calibration_of, make_plan
from goc.planning.plan import Plan
from goc.runs.denoiser import uncached_generation
from goc.sampling.generation import Generation

EVALUATIONS = 10


def planned(model: DiT, folder: Path, *settings: str) -> tuple[Plan, Generation]:
    """The plan and the uncached generation of some settings on a small random model."""
    config = config_of(*settings, f"evaluations={EVALUATIONS}", "calibration_samples=4", "seed=3")
    validate(config)
    generation = uncached_generation(config.measurement, config.way, model, torch.device("cpu"))
    calibration = calibration_of(config.way, generation, {}, str(folder))
    return make_plan(config.way, config.measurement.model, calibration), generation
