"""Weights are trained through the very sampler that uses them, and closer to the target than what they start from."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closeness import assert_near
from plans import planned
from torch import Tensor

from goc.caching.anchored import Learned
from goc.caching.cache import ScheduledCache
from goc.config import compose_config
from goc.models.build import load_model
from goc.models.dit import DiT
from goc.planning.denoiser import calibration_of
from goc.planning.plan import Plan
from goc.sampling.calibrate import Calibration
from goc.sampling.search import final_latents, mean_distance
from goc.sampling.solvers import no_noise
from goc.sampling.training import Progress
from goc.system.command import run_command
from goc.system.errors import ConfigError
from goc.system.files import resolve
from goc.train import learning
from goc.train import weights as train_weights
from goc.train.learning import weighted_denoiser
from goc.train.starts import start

pytestmark = pytest.mark.slow


def ready(model: DiT, folder: Path, *settings: str) -> tuple[Plan, Calibration]:
    plan, generation = planned(model, folder, "cache_ratio=0.6", "predictor=taylor", *settings)
    return plan, replace(calibration_of(plan.way, generation, {}, str(folder)), samples=4)


def trained_way(plan: Plan, calibration: Calibration, weights: Tensor, keep: bool) -> Tensor:
    """Where the calibration's samples end with these weights, computed as training does."""
    generation, cached = calibration.seeded(), plan.mask.flatten(1).all(dim=1).tolist()
    labels, gaussian = generation.drawn(range(4))
    denoise = weighted_denoiser(generation, labels, plan.site, cached, weights, keep)
    *_, x = generation.solver.sample(denoise, gaussian(), no_noise)
    return x


@pytest.mark.parametrize("settings", [[], ["site=stack"], ["cfg_scale=1.5"], ["sampler=unipc"], ["model=digits_flow"]])
def test_training_samples_as_running_does_and_starts_as_the_predictor_does(
    tiny_dit: DiT, tmp_path: Path, settings: list[str]
) -> None:
    plan, calibration = ready(tiny_dit, tmp_path, *settings)
    first = start(plan, 3)
    ends = final_latents(calibration, plan.new_cache)
    assert_near(trained_way(plan, calibration, first, keep=True), ends)
    other = first + 0.1 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    ends = final_latents(calibration, lambda: ScheduledCache(plan.mask, Learned(plan.mask, other), plan.site))
    assert_near(trained_way(plan, calibration, other, keep=True), ends)


@pytest.mark.parametrize("settings", [[], ["site=stack", "cfg_scale=1.5"], ["model=digits_flow", "sampler=heun"]])
def test_the_gradient_is_that_of_the_distance_and_checkpoints_do_not_change_it(
    tiny_dit: DiT, tmp_path: Path, settings: list[str]
) -> None:
    plan, calibration = ready(tiny_dit, tmp_path, *settings)
    target = final_latents(calibration, None).clone()
    first, gradients = start(plan, 3), []
    for keep in (True, False):
        weights = first.clone().requires_grad_()
        mean_distance(trained_way(plan, calibration, weights, keep), target).backward()
        gradients.append(weights.grad)
    assert torch.equal(*gradients)
    direction, width = gradients[0] / gradients[0].norm(), 1e-2
    with torch.no_grad():
        ahead, behind = (
            mean_distance(trained_way(plan, calibration, first + side * width * direction, True), target)
            for side in (1, -1)
        )
    assert (ahead - behind).item() / (2 * width) == pytest.approx(gradients[0].norm().item(), rel=0.05)


def test_training_brings_the_samples_closer(tmp_path: Path) -> None:
    model = compose_config(["model=digits"]).measurement.model
    denoiser = load_model(model.shape(), resolve(model.checkpoint), model.objective).requires_grad_(False)
    plan, calibration = ready(denoiser, tmp_path)
    weights, losses = learning.train(plan, calibration, iterations=15, batch=4, rate=0.02, keep=True)
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(weights[~plan.mask[:, 0, 0]], torch.zeros(4, 3))  # computed steps predict nothing
    again, _ = learning.train(plan, calibration, iterations=15, batch=4, rate=0.02, keep=True)
    assert torch.equal(again, weights)


def test_a_stopped_training_goes_on_where_it_was_to_the_same_weights(
    tiny_dit: DiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process: test_stopping.py, nightly."""
    plan, calibration = ready(tiny_dit, tmp_path)
    whole, losses = learning.train(plan, calibration, iterations=6, batch=2, rate=0.02, keep=True)
    path, measured = tmp_path / "training.safetensors", list[None]()

    def stop(x: Tensor, target: Tensor) -> Tensor:
        measured.append(None)
        if len(measured) == 4:
            raise KeyboardInterrupt
        return mean_distance(x, target)

    monkeypatch.setattr(learning, "mean_distance", stop)
    with pytest.raises(KeyboardInterrupt):
        learning.train(plan, calibration, 6, 2, 0.02, True, Progress(path, {"of": 1}))
    weights, again = learning.train(plan, calibration, 6, 2, 0.02, True, Progress(path, {"of": 1}))
    assert torch.equal(weights, whole)
    assert again == losses
    assert len(measured) == 4 + 3
    path.write_bytes(path.read_bytes()[:-9])  # a damaged one is begun anew
    assert torch.equal(learning.train(plan, calibration, 6, 2, 0.02, True, Progress(path, {"of": 1}))[0], whole)
    assert len(measured) == 4 + 3 + 6


def test_a_predictor_that_uses_more_than_the_last_features_is_no_start(tiny_dit: DiT, tmp_path: Path) -> None:
    plan, _ = ready(tiny_dit, tmp_path, "predictor.order=3")
    with pytest.raises(ConfigError, match=r"predictor=taylor: must be one that uses the last 3"):
        start(plan, 3)
    anchored, _ = ready(tiny_dit, tmp_path, "predictor=gradient_queue", "predictor.gradients=computed")
    assert start(anchored, 3)[:, 2].eq(0).all()


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["goc train weights", *arguments, "--iterations=2", "--batch=2", "--samples=4"])
    return run_command(train_weights.main)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(["sampler=ddpm"], "sampler=ddpm: must be a deterministic one"),
     (["cache_ratio=0"], "cache_ratio=0: must be more than 0"),
     (["cfg_scale=4", "cfg_cache=0.5", "predictor=taylor"], "cfg_cache=0.5: must be null here, as training is with")],
)  # fmt: skip
def test_what_cannot_be_trained_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: list[str], message: str
) -> None:
    assert train(monkeypatch, *settings) == 1
    assert message in capsys.readouterr().err
