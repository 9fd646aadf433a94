"""The converged solution is DDIM's limit, its accuracy is honest, and it depends on seeds and weights alone."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian import MEAN, STD, gaussian_noise, gaussian_velocity
from torch import Tensor

from goc.config.hydra import compose_config
from goc.models.build import load_model
from goc.models.decoder import decode_pixels
from goc.models.dit import DiT
from goc.models.objective import DIFFUSION
from goc.sampling import converged as module
from goc.sampling.converged import (
    BATCH_SIZE,
    INTERVALS,
    Converged,
    DiffusionEquation,
    FlowEquation,
    adams_weights,
    converged,
    converging_grid,
    solve,
)
from goc.sampling.generation import Generation
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM, DDPM, no_noise
from goc.system.errors import GocError
from goc.system.files import resolve

KEY = {"weights": "tiny", "cfg_scale": 1.5}


def generation(model: DiT, steps: int = 20, cfg_scale: float = 1.5) -> Generation:
    return Generation(
        model=model,
        solver=DDIM(NoiseSchedule.respaced(steps)),
        cfg_scale=cfg_scale,
        cfg_channels=3,
        seed=3,
        decode=decode_pixels,
        device=torch.device("cpu"),
    )


def relative(x: Tensor, solution: Tensor) -> float:
    """Mean over the samples of |x - solution| / |solution|."""
    return float(((x - solution).flatten(1).norm(dim=1) / solution.flatten(1).norm(dim=1)).mean())


def exact_solution(x: Tensor) -> Tensor:
    """Of DDIM's equation on Gaussian data: y - MEAN goes as sqrt(STD^2 + sigma^2); then the step to sigma = 0."""
    full = NoiseSchedule.respaced(1000)
    first, last = full.alphas_cumprod[[0, -1]]
    high, low = 1 / first - 1, 1 / last - 1  # sigma^2
    y = MEAN + (x / first**0.5 - MEAN) * ((STD**2 + low) / (STD**2 + high)) ** 0.5
    return MEAN + (y - MEAN) * STD**2 / (STD**2 + low)


def noise(samples: int = 4) -> Tensor:
    return torch.randn(samples, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def halvings(intervals: int, count: int) -> list[NoiseSchedule]:
    """Grids of which each has every second timestep of the next."""
    finest = converging_grid(intervals).timesteps
    return [NoiseSchedule.at(finest[:: 2**level]) for level in reversed(range(count))]


def test_the_error_falls_with_the_third_power_of_the_step() -> None:
    x = noise()
    errors = [
        relative(solve(gaussian_noise(grid, STD), x, DiffusionEquation(grid)), exact_solution(x))
        for grid in halvings(400, 4)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > 2.5).all(), orders
    assert errors[-1] < 1e-6


def test_a_point_is_reached_exactly_on_any_grid() -> None:
    grid = converging_grid(5)
    torch.testing.assert_close(
        solve(gaussian_noise(grid, 0.0), noise(), DiffusionEquation(grid)), torch.full_like(noise(), MEAN)
    )


def test_ddim_comes_to_the_exact_solution_of_gaussian_noise() -> None:
    """The formula that the other tests trust is DDIM's limit, its last step included."""
    x = noise()
    errors = []
    for steps in (250, 500, 1000):
        schedule = NoiseSchedule.respaced(steps)
        *_, end = DDIM(schedule).sample(gaussian_noise(schedule, STD), x, no_noise)
        errors.append(relative(end, exact_solution(x)))
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, rtol=0.1)


def test_weights_integrate_parabolas_through_uneven_nodes_exactly() -> None:
    nodes = [2.0, 3.1, 5.0]
    weights = adams_weights(nodes, 2.0, 0.5)
    assert np.dot(weights, [node**2 - node for node in nodes]) == pytest.approx((0.125 - 8) / 3 - (0.25 - 4) / 2)
    assert adams_weights([2.0], 2.0, 0.5) == [-1.5]  # Euler's method, which is DDIM


def test_on_the_flow_of_gaussian_data_it_is_exact_to_third_order() -> None:
    x, equations = noise(), [FlowEquation(intervals) for intervals in (50, 100, 200)]
    errors = [relative(solve(gaussian_velocity(one.times), x, one), MEAN + STD * x) for one in equations]
    assert (np.log2(np.divide(errors[:-1], errors[1:])) > 2.5).all(), errors


@pytest.mark.parametrize("intervals", [1, 7, 160, INTERVALS, 999])
def test_the_grid_keeps_both_ends_and_its_steps_grow_towards_the_noise(intervals: int) -> None:
    grid = converging_grid(intervals)
    assert (len(grid), grid.timesteps[0], grid.timesteps[-1]) == (intervals + 1, 999, 0)
    assert (np.diff(grid.timesteps) < 0).all()
    if intervals == INTERVALS:
        assert grid.timesteps[-2] == 1
        assert grid.timesteps[0] - grid.timesteps[1] == pytest.approx(2 * 999 / INTERVALS, abs=2)


@pytest.mark.parametrize("intervals", [0, 1000])
def test_impossible_grids_are_refused(intervals: int) -> None:
    with pytest.raises(ValueError, match=rf"intervals={intervals}: must be in \[1, 999\]"):
        converging_grid(intervals)


@pytest.fixture
def smooth_dit(tiny_dit: DiT) -> DiT:
    """A random DiT that changes slowly with t, as a trained one: it does not see the timestep's fast waves."""
    t_embedder = tiny_dit.t_embedder
    t_embedder.mlp[0].weight.view(-1, 2, t_embedder.frequencies // 2)[:, :, :64] = 0  # faster than 0.01 radians a step
    return tiny_dit


@pytest.mark.slow
@pytest.mark.parametrize("cfg_scale", [1.0, pytest.param(1.5, marks=pytest.mark.nightly)])
def test_ddim_approaches_it_like_one_over_its_steps(smooth_dit: DiT, cfg_scale: float, tmp_path: Path) -> None:
    solution = converged(generation(smooth_dit, 20, cfg_scale), DIFFUSION, KEY, 6, tmp_path)
    distances = []
    for steps in (50, 100, 200, 400):
        made, _ = generation(smooth_dit, steps, cfg_scale).make(range(6))
        distances.append(relative(made["latents"], solution.latents))
    np.testing.assert_allclose(np.divide(distances[:-1], distances[1:]), 2, rtol=0.25)
    assert solution.accuracy < distances[0] / 5  # though random weights make a stiffer equation than trained ones


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits_flow"])
def test_on_the_digits_it_is_known_twenty_times_better_than_50_steps_come_to_it(name: str, tmp_path: Path) -> None:
    config = compose_config([f"model={name}", "steps=50"])
    model, way = config.measurement.model, config.way
    denoiser = load_model(model.shape(), resolve(model.checkpoint), model.objective)
    source = replace(generation(denoiser, cfg_scale=1.0), solver=way.sampler.solver(way.steps))
    solution = converged(source, model.objective, KEY, 4, tmp_path)
    assert solution.accuracy < relative(source.make(range(4))[0]["latents"], solution.latents) / 20


@pytest.mark.slow
def test_the_accuracy_reported_is_the_error_of_the_coarser_grid(smooth_dit: DiT, tmp_path: Path) -> None:
    source = generation(smooth_dit)
    solution = converged(source, DIFFUSION, KEY, 6, tmp_path)
    full = NoiseSchedule.respaced(1000)
    coarse = NoiseSchedule.at(converging_grid(INTERVALS).timesteps[::2])
    labels, gaussian = source.drawn(range(6))
    x = gaussian()
    denoisers = [source.denoiser(labels, None, grid.times) for grid in (full, coarse)]
    with torch.inference_mode():
        truth, less = (
            solve(denoise, x, DiffusionEquation(grid)) for denoise, grid in zip(denoisers, (full, coarse), strict=True)
        )
    assert solution.accuracy == pytest.approx(relative(less, truth), rel=0.3)
    assert relative(solution.latents, truth) < solution.accuracy / 2
    assert solution.evaluations == len(coarse) + INTERVALS + 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids of a few steps, for what is not about the method."""
    monkeypatch.setattr(module, "INTERVALS", 8)


def equal(a: Converged, b: Converged) -> bool:
    return torch.equal(a.latents, b.latents) and (a.accuracy, a.evaluations) == (b.accuracy, b.evaluations)


@pytest.mark.usefixtures("quick")
def test_samples_are_those_of_the_seed_whatever_the_run_and_the_batch(tiny_dit: DiT, tmp_path: Path) -> None:
    few = converged(generation(tiny_dit), DIFFUSION, KEY, BATCH_SIZE, tmp_path / "a")
    other = replace(generation(tiny_dit), solver=DDPM(NoiseSchedule.respaced(7)))  # a way has no part in it
    more = converged(other, DIFFUSION, KEY, BATCH_SIZE + 3, tmp_path / "b")
    assert more.latents.shape == (BATCH_SIZE + 3, 2, 4, 4)
    assert more.latents.dtype == torch.float32
    assert torch.equal(more.latents[:BATCH_SIZE], few.latents)
    assert not torch.equal(more.latents[0], more.latents[BATCH_SIZE])
    reseeded = converged(replace(other, seed=4), DIFFUSION, KEY, BATCH_SIZE, tmp_path / "a")
    assert not torch.equal(reseeded.latents, few.latents)


@pytest.mark.usefixtures("quick")
def test_it_is_made_once_and_a_damaged_file_again(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    made = converged(generation(tiny_dit), DIFFUSION, KEY, 3, tmp_path)
    assert "converged solution" in capsys.readouterr().err
    assert equal(converged(generation(tiny_dit, steps=9), DIFFUSION, KEY, 3, tmp_path), made)
    assert "converged solution" not in capsys.readouterr().err  # read back
    (file,) = tmp_path.glob("converged-*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with caplog.at_level(logging.WARNING):
        assert equal(converged(generation(tiny_dit), DIFFUSION, KEY, 3, tmp_path), made)
    assert "is damaged" in caplog.text
    assert "made again" in caplog.text
    assert file.read_bytes() == whole


@pytest.mark.usefixtures("quick")
def test_what_is_not_finite_is_refused_and_not_kept(tiny_dit: DiT, tmp_path: Path) -> None:
    tiny_dit.final_layer.linear.bias.fill_(float("nan"))
    with pytest.raises(GocError, match=r"samples 0\.\.2: the converged solution is not finite"):
        converged(generation(tiny_dit), DIFFUSION, KEY, 3, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
