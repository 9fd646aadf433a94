"""Times are trained through the very solver that uses them, stay in order, and bring samples closer to the target."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_near
from composing import config_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goc.models.dit import DiT
from goc.planning.denoiser import calibration_of
from goc.runs.denoiser import uncached_generation
from goc.sampling.calibrate import Calibration
from goc.sampling.options import SAMPLERS, TimedConfig
from goc.sampling.search import final_latents, mean_distance
from goc.system.command import run_command
from goc.train import timesteps as train_timesteps
from goc.train.grids import LearnedTimes, ends_of

pytestmark = pytest.mark.slow
EACH = (["sampler=ddim"], ["sampler=unipc"], ["sampler=dpm_solver", "sampler.order=3", "cfg_scale=1.5"],
        ["model=digits_flow"])  # fmt: skip


def ready(model: DiT, folder: Path, *settings: str) -> tuple[LearnedTimes, Calibration]:
    config = config_of(*settings, "method=none", "steps=4", "seed=3")
    generation = uncached_generation(config.measurement, config.way, model, torch.device("cpu"))
    assert isinstance(config.way.sampler, TimedConfig)
    return LearnedTimes(config.way.sampler), replace(calibration_of(config.way, generation, {}, str(folder)), samples=4)


@given(
    st.lists(st.tuples(st.floats(-8, 8), st.floats(-8, 8)), min_size=1, max_size=9),
    st.sampled_from(["ddim", "euler"]),
)
def test_any_parameters_are_times_in_order_from_the_noise_to_before_the_data(
    rows: list[tuple[float, float]], name: str
) -> None:
    sampler = SAMPLERS[name]()
    assert isinstance(sampler, TimedConfig)
    first, end = sampler.span
    points, given = LearnedTimes(sampler).times(torch.tensor(rows, dtype=torch.float64).t())
    for times in (points, given):
        assert times[0] == first
        assert (np.diff(times.numpy(), append=end) * np.sign(end - first) > 0).all()


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_a_training_begins_at_the_grid_it_is_given(name: str) -> None:
    sampler = SAMPLERS[name]()
    assert isinstance(sampler, TimedConfig)
    learned = LearnedTimes(sampler)
    for points in learned.known(6).values():
        times = learned.plain(learned.parameters(points))
        # a grid that ends at the data's time begins a little before it
        np.testing.assert_allclose(times.points, points, atol=1e-3 * abs(np.subtract(*sampler.span)))
        np.testing.assert_array_equal(times.points, times.given)


@pytest.mark.parametrize("settings", EACH)
def test_training_samples_as_running_does_and_the_gradient_is_that_of_the_distance(
    tiny_dit: DiT, tmp_path: Path, settings: list[str]
) -> None:
    learned, calibration = ready(tiny_dit, tmp_path, *settings)
    target = final_latents(calibration, None).clone()
    begin = learned.parameters(learned.known(4)["power1.5"]) + torch.tensor([[0.1], [0.3]])
    gradients = []
    for keep in (True, False):
        parameters = begin.clone().requires_grad_()
        made = ends_of(learned, calibration.seeded(), parameters, keep)(range(4))
        mean_distance(made, target).backward()
        gradients.append(parameters.grad)
    assert torch.equal(*gradients)

    def ends(parameters: Tensor) -> Tensor:
        solver = learned.sampler.solver_at(learned.plain(parameters))
        own = replace(calibration, generation=replace(calibration.generation, solver=solver))
        return final_latents(own, None).clone()

    assert_near(made.detach(), ends(begin))
    (gradient, _), width = gradients, 2e-4
    # a logit moves all times after it, and a shift what the network is told of one; the first of them nothing
    assert (gradient.abs() > 0)[:, 1:].all()
    assert gradient[1, 0] == 0
    for row in range(2):
        direction = torch.zeros_like(gradient)
        direction[row] = gradient[row] / gradient[row].norm()
        ahead, behind = (mean_distance(ends(begin + side * width * direction), target) for side in (1, -1))
        assert (ahead - behind).item() / (2 * width) == pytest.approx(gradient[row].norm().item(), rel=0.05)


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["goc train timesteps", *arguments])
    return run_command(train_timesteps.main)


def test_training_brings_samples_apart_closer_than_every_known_grid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ("--samples=4", "--held=8", "--batch=4", "--iterations=10", "--target=20", "--rate=0.1", "--keep")
    assert train(monkeypatch, "steps=3", *sizes, "--out=times.json") == 0
    content = json.loads(Path("times.json").read_text())
    distances, kept = content["training"]["held_distances"], content["training"]["kept"]
    assert kept == "trained" == min(distances, key=lambda name: distances[name])
    assert distances["trained"] < 0.95 * distances[content["training"]["start"]] < distances["own"]
    assert len(content["times"]) == len(content["network_times"]) == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [(["sampler=ddpm"], "sampler=ddpm: must be one of ddim, dpm_solver, unipc, euler"),
     (["model=digits_flow", "sampler=heun"], "sampler=heun: must be one of ddim"),
     (["sampler=unipc", "sampler.spacing=logsnr"], "sampler.spacing=logsnr: must be linear"),
     (["method=reuse"], "schedule=uniform: must be none here, as times are trained without a cache"),
     (["cfg_scale=4", "guidance_interval=[0.1,3]"], "must be null here, as training is with full guidance"),
     (["--target=4"], "--target=4: must be converged, or more steps than steps=4"),
     (["--target=teacher"], "--target=teacher: must be converged"),
     (["--iterations=0"], "--iterations=0")],
)  # fmt: skip
def test_what_cannot_be_trained_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: list[str], says: str
) -> None:
    assert train(monkeypatch, "steps=4", *settings) == 1
    assert says in capsys.readouterr().err
