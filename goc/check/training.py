"""Trainings through the sampler: the same losses as on the CPU, and the memory that DiT-XL/2 takes."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from goc.check.random_model import random_model
from goc.check.setting import Outcome, Setting, Table
from goc.check.step_times import peak_bytes
from goc.config import compose_config
from goc.models.build import load_model
from goc.planning.denoiser import calibration_of, make_plan
from goc.runs.denoiser import calibration_alone, uncached_generation
from goc.sampling.search import final_latents
from goc.system.device import choose_device, configure
from goc.system.files import resolve
from goc.train import learning, router

CPU = torch.device("cpu")
TOLERANCE = 1e-2  # of a loss, relative
WAY = ("predictor=taylor", "predictor.order=2", "cache_ratio=0.5")  # three features stand in for each
MODELS = ("digits", "fashion")  # the latter is in a checkout only
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    steps: int
    iterations: int
    batch: int
    models: tuple[str, ...]
    memory_steps: int  # of the setting's model, whose peak memory is measured
    memory_batch: int
    memory_precisions: tuple[str, ...]


FULL = Size(10, 4, 8, MODELS, 20, 4, ("tf32", "bf16"))
TINY = Size(4, 2, 2, MODELS[:1], 4, 1, ("fp32",))


def weights_losses(model: str, device: torch.device, size: Size) -> list[float]:
    """Losses of `goc train weights` on a device, activations computed again for the gradient."""
    with tempfile.TemporaryDirectory() as folder:
        config = compose_config([f"model={model}", f"steps={size.steps}", *WAY, f"cache_dir={folder}"])
        calibration = calibration_alone(config, device, compiled=False)
        plan = make_plan(config.way, config.measurement.model, calibration)
        samples = replace(calibration, samples=2 * size.batch)
        return learning.train(plan, samples, size.iterations, size.batch, rate=2e-2, keep=False)[1]


def router_losses(model: str, device: torch.device, size: Size) -> list[float]:
    """Losses of `goc train router` on a device."""
    config = compose_config([f"model={model}", f"steps={size.steps}"])
    shape = config.measurement.model
    denoiser = load_model(shape.shape(), resolve(shape.checkpoint), shape.objective).to(device)
    return router.train(config, denoiser, device, size.iterations, size.batch, penalty=1e-3, rate=0.05)[1]


TRAININGS = {"weights": weights_losses, "router": router_losses}


def beside_cpu(size: Size, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row for each training of each model: its losses on the device and on the CPU."""
    for model in size.models:
        if not resolve(compose_config([f"model={model}"]).measurement.model.checkpoint).exists():
            continue
        for name, losses_on in TRAININGS.items():
            started = time.perf_counter()
            losses = losses_on(model, device, size)
            took = (time.perf_counter() - started) / size.iterations
            expected = losses_on(model, CPU, size)
            # of a loss that is not a number a maximum may say nothing
            difference = float(np.max([abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True)]))
            yield {
                "training": f"train {name}, {model}",
                "precision": "fp32",
                "batch": size.batch,
                "first_loss": losses[0],
                "last_loss": losses[-1],
                "difference": difference,
                "allowed": TOLERANCE,
                "agrees": difference <= TOLERANCE,
                "iteration_s": took,
            }


def memory(setting: Setting, size: Size, precision: str) -> dict[str, Any]:
    """A row: time and peak memory of one iteration of `goc train weights` on the setting's model, through all steps."""
    row: dict[str, Any] = {
        "training": f"train weights, {setting.model}",
        "precision": precision,
        "batch": size.memory_batch,
    }
    model, device, _ = random_model(setting.model, setting.image_size, precision, compiled=False)
    config = compose_config([f"steps={size.memory_steps}", *WAY, f"precision={precision}"])
    guided = replace(config.measurement, cfg_scale=setting.cfg_scale)
    generation = uncached_generation(guided, config.way, model, device)
    with tempfile.TemporaryDirectory() as folder:
        calibration = replace(calibration_of(config.way, generation, {}, folder), samples=size.memory_batch)
        plan = make_plan(config.way, config.measurement.model, calibration)
        targets = final_latents(calibration, None)
        took = math.nan

        def iteration() -> None:
            nonlocal took
            started = time.perf_counter()
            learning.train(plan, calibration, 1, size.memory_batch, rate=0.0, keep=False, targets=targets)
            took = time.perf_counter() - started

        try:
            row["peak_gib"] = peak_bytes(iteration, device) / GIB
        except torch.OutOfMemoryError:
            row["note"] = "not memory enough on this card"
    return row | {"iteration_s": took}


COLUMNS = {
    "training": "training",
    "precision": "format",
    "batch": "samples",
    "first_loss": "first loss",
    "last_loss": "last loss",
    "difference": "largest difference to the CPU's, relative ↓",
    "allowed": "allowed",
    "agrees": "agrees",
    "iteration_s": "seconds an iteration ↓",
    "peak_gib": "peak above the model, GiB ↓",
    "note": "why no numbers",
}


def check(setting: Setting) -> Outcome:
    """Trainings of the embedded models on the setting's device and on the CPU; then the peak memory."""
    size, device = TINY if setting.is_tiny else FULL, choose_device(setting.device)
    configure(device, "fp32", deterministic=False, threads=None)
    rows = list(beside_cpu(size, device))
    failures = [
        f"{row['training']}: a loss differs from the CPU's by {row['difference']:.3g}, allowed {TOLERANCE:g}"
        for row in rows
        if not row["agrees"]
    ]
    findings = [f"{len(rows) - len(failures)} of {len(rows)} trainings have the CPU's losses."]
    for precision in size.memory_precisions:
        row = memory(setting, size, precision)
        said = row.get("note") or f"{row['peak_gib']:.3g} GiB above the model, {row['iteration_s']:.3g} s"
        findings.append(f"{row['training']}, a batch of {size.memory_batch} in {precision}: {said}.")
        rows.append(row)
    return Outcome(table(rows, size), failures, findings)


def table(rows: Sequence[dict[str, Any]], size: Size) -> Table:
    """The part's table."""
    return Table(
        "training",
        "Trainings through the sampler",
        f"A few iterations of goc train weights and goc train router ({size.steps} steps) on this device and on a CPU: "
        f"losses in fp32, with tf32 off, must agree. The last rows: one iteration through {size.memory_steps} guided "
        "steps, half of them cached, of a model with random weights; activations of a step are computed again for the "
        "gradient. Time includes that of the first use of each kernel.",
        pd.DataFrame(rows, columns=list(COLUMNS)),
        COLUMNS,
    )
