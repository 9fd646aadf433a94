from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_near
from diffusers import DiTPipeline, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from gaussian import MEAN, STD, gaussian_noise, gaussian_velocity
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from goc.config import compose_config
from goc.models.build import load_model
from goc.models.dit import DiT
from goc.sampling.guidance import guide, guided_denoiser
from goc.sampling.multistep import Multistep, dpm_solver, even_in_log_snr, unipc
from goc.sampling.noise import NoiseSchedule, linear_betas
from goc.sampling.solvers import (
    DDIM,
    Euler,
    FlowSolver,
    Heun,
    Midpoint,
    Solver,
    ddim_step,
    ddpm_log_variance,
    ddpm_mean,
    ddpm_step,
    no_noise,
)
from goc.system.files import resolve


def test_the_noise_schedule_is_the_published_one() -> None:
    betas = linear_betas()
    assert (len(betas), betas[0], betas[-1]) == (1000, 1e-4, 2e-2)
    schedule = NoiseSchedule.respaced(1000)
    np.testing.assert_allclose(schedule.betas[::-1], betas, rtol=1e-9)
    assert schedule.alphas_cumprod[0] == pytest.approx(4.0358e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [(20, [999, 946, 894, 841, 789, 736, 684, 631, 578, 526, 473, 421, 368, 315, 263, 210, 158, 105, 53, 0])],
)
def test_respacing_keeps_both_ends_of_the_training_schedule(steps: int, timesteps: list[int]) -> None:
    assert NoiseSchedule.respaced(steps).timesteps.tolist() == timesteps


@given(st.integers(2, 1000))
def test_respaced_timesteps_fall_from_999_to_0(steps: int) -> None:
    schedule = NoiseSchedule.respaced(steps)
    assert len(schedule) == steps
    assert schedule.timesteps[0] == 999
    assert schedule.timesteps[-1] == 0
    assert (np.diff(schedule.timesteps) < 0).all()
    assert (schedule.betas > 0).all()
    assert schedule.alphas_cumprod_prev[-1] == 1


@pytest.mark.parametrize("steps", [1, 0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps={steps}: must be in \[2, 1000\]"):
        NoiseSchedule.respaced(steps)


def test_ddim_with_the_true_noise_returns_the_clean_image() -> None:
    schedule = NoiseSchedule.respaced(10)
    x0, noise = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    alpha_bar = float(schedule.alphas_cumprod[0])
    x = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise
    output = torch.cat([noise, torch.zeros_like(noise)], dim=1)
    *_, final = DDIM(schedule).sample(lambda _x, _i: output, x, no_noise)
    torch.testing.assert_close(final, x0)


def test_ddim_does_not_clip_the_clean_image() -> None:
    schedule = NoiseSchedule.respaced(10)
    x = torch.full((1, 1, 1, 1), 50.0)
    assert ddim_step(schedule, 9, x, torch.zeros(1, 2, 1, 1)).item() > 49


def test_ddpm_mean_and_variance_are_those_of_the_gaussian_posterior() -> None:
    """q(x_prev | x, x0) is the product of two Gaussians; computed here by Bayes' rule."""
    schedule = NoiseSchedule.respaced(25)
    for i in range(24):
        alpha_bar_prev, beta = schedule.alphas_cumprod_prev[i], schedule.betas[i]
        precision = 1 / (1 - alpha_bar_prev) + (1 - beta) / beta
        mean = (np.sqrt(alpha_bar_prev) * 0.3 / (1 - alpha_bar_prev) + np.sqrt(1 - beta) * -1.7 / beta) / precision
        computed = ddpm_mean(
            schedule, i, torch.tensor(-1.7, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
        )
        assert computed.item() == pytest.approx(mean, rel=1e-9)
        assert schedule.posterior_variance[i] == pytest.approx(1 / precision, rel=1e-9)
        low, high = (ddpm_log_variance(schedule, i, torch.tensor(v)).item() for v in (-1.0, 1.0))
        assert low == pytest.approx(np.log(1 / precision), rel=1e-5)
        assert high == pytest.approx(np.log(beta), rel=1e-5)


def test_ddpm_adds_no_noise_in_the_last_step() -> None:
    schedule = NoiseSchedule.respaced(5)
    x, output, noise = torch.randn(1, 2, 2, 2), torch.randn(1, 4, 2, 2), torch.randn(1, 2, 2, 2)
    assert torch.equal(ddpm_step(schedule, 4, x, output, noise), ddpm_step(schedule, 4, x, output, 0 * noise))
    assert not torch.equal(ddpm_step(schedule, 3, x, output, noise), ddpm_step(schedule, 3, x, output, 0 * noise))


def test_guidance_moves_the_first_channels_only() -> None:
    cond, uncond = torch.randn(2, 8, 1, 1), torch.randn(2, 8, 1, 1)
    guided = guide(torch.cat([cond, uncond]), scale=1.5, channels=3)
    torch.testing.assert_close(guided[:, :3], uncond[:, :3] + 1.5 * (cond[:, :3] - uncond[:, :3]))
    assert torch.equal(guided[:, 3:], cond[:, 3:])


@pytest.mark.parametrize("channels", [1, 2])
def test_guidance_reaches_all_of_the_noise_and_never_the_variance(channels: int) -> None:
    output = torch.randn(2, channels, 1, 1)  # without a learned variance, of one channel; and with it
    times = NoiseSchedule.respaced(4).times
    denoise = guided_denoiser(lambda x, t, y: output, times, torch.tensor([3]), 9, 4.0, cfg_channels=3)
    found = denoise(torch.zeros(1, 1, 1, 1), 0)
    torch.testing.assert_close(found[0, 0], output[1, 0] + 4 * (output[0, 0] - output[1, 0]))
    assert torch.equal(found[:, 1:], output[:1, 1:])


@pytest.mark.parametrize(("cfg_scale", "labels"), [(1.0, [3, 1]), (1.5, [3, 1, 9, 9])])
def test_without_guidance_the_unconditional_half_is_not_computed(cfg_scale: float, labels: list[int]) -> None:
    seen: list[list[int]] = []

    def model(x: Tensor, _t: Tensor, y: Tensor) -> Tensor:
        seen.append(y.tolist())
        return torch.cat([x, x], dim=1)

    denoise = guided_denoiser(model, NoiseSchedule.respaced(4).times, torch.tensor([3, 1]), 9, cfg_scale, 3)
    assert denoise(torch.zeros(2, 1, 2, 2), 0).shape == (2, 2, 2, 2)
    assert seen == [labels]


# ---------------------------------------------------------------- flow matching

FLOW = (Euler, Heun, Midpoint)


def orders(errors: Sequence[float]) -> np.ndarray:
    return np.log2(np.divide(errors[:-1], errors[1:]))


@pytest.mark.parametrize(("solver", "order"), [(Euler, 1), (Heun, 2), (Midpoint, 2)])
def test_halving_a_flow_step_divides_the_error_by_two_to_the_order(solver: type[FlowSolver], order: int) -> None:
    """On dx/dt = (1 + t) x; the linear path between Gaussians is so symmetric that it spares the midpoint an error."""
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    errors = []
    for steps in (20, 40, 80, 160):
        own = solver(steps)
        times = own.grid.times
        *_, end = own.sample(lambda x, i, times=times: torch.cat([(1 + times[i]) * x, x], dim=1), x, no_noise)
        errors.append(float((end - x * np.exp(1.5)).norm()))
    np.testing.assert_allclose(orders(errors), order, atol=0.25)


def test_a_flow_solver_comes_to_the_transport_of_gaussian_data() -> None:
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    solver = Heun(200)
    *_, end = solver.sample(gaussian_velocity(solver.grid.times), x, no_noise)
    torch.testing.assert_close(end, MEAN + STD * x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", FLOW)
def test_a_flow_solver_evaluates_where_its_grid_says(solver: type[FlowSolver]) -> None:
    asked = []

    def denoise(x: Tensor, i: int) -> Tensor:
        asked.append(i)
        return torch.zeros(len(x), 2 * x.shape[1], *x.shape[2:])

    own = solver(5)
    x = torch.randn(1, 2, 2, 2)
    states = list(own.sample(denoise, x, no_noise))
    assert len(states) == own.steps == 5
    assert asked == list(range(len(own.grid)))
    assert len(own.grid) == 5 * own.evaluations_per_step
    assert torch.equal(states[-1], x)


def test_heuns_corrector_and_the_next_predictor_are_at_one_time_and_one_noise_level() -> None:
    grid = Heun(4).grid
    np.testing.assert_allclose(grid.times, [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1])
    assert grid.log_snr[1] == grid.log_snr[2]


@given(st.integers(1, 1000), st.sampled_from(FLOW))
def test_the_noise_level_of_flow_matching_is_finite_and_never_falls(steps: int, solver: type[FlowSolver]) -> None:
    grid = solver(steps).grid
    assert np.isfinite(grid.log_snr).all()
    assert ((np.diff(grid.log_snr) > 0) == (np.diff(grid.times) > 0)).all()


# ---------------------------------------------------------------- diffusers' solvers


@pytest.mark.parametrize(("make", "order", "shown"), [(dpm_solver, 2, 2), (unipc, 3, 3), (dpm_solver, 3, 2)])
def test_halving_a_multistep_step_divides_the_error_by_four_or_eight(
    make: Callable[[NoiseSchedule, int], Multistep], order: int, shown: int
) -> None:
    """DPM-Solver's third order is the second in diffusers, and in its authors' code: see docs/methods/solvers.md."""
    x = torch.randn(8, 2, 4, 4)
    errors = []
    for steps in (32, 64, 128):
        schedule = even_in_log_snr(steps)
        *_, before_last, _ = make(schedule, order).sample(gaussian_noise(schedule), x, no_noise)
        first, last = schedule.alphas_cumprod[[0, -1]]
        spread = ((last * STD**2 + 1 - last) / (first * STD**2 + 1 - first)) ** 0.5
        exact = last**0.5 * MEAN + spread * (x - first**0.5 * MEAN)
        errors.append(float((before_last.double() - exact).norm()))
    assert orders(errors).mean() == pytest.approx(shown, abs=0.3), errors


PIPELINE_NULL = 1000  # the null label that DiTPipeline knows


@pytest.fixture
def digits() -> DiT:
    """The shipped denoiser, its null label moved to where DiTPipeline looks for it."""
    settings = compose_config([]).measurement.model
    model = load_model(settings.shape(), resolve(settings.checkpoint))
    table = model.y_embedder.embedding_table.weight
    rows = torch.cat([table[:-1], torch.zeros(PIPELINE_NULL - len(table) + 1, table.shape[1]), table[-1:]])
    model.y_embedder.embedding_table = nn.Embedding.from_pretrained(rows)
    return model


class PipelineTransformer(nn.Module):
    """A DiT as diffusers' DiTPipeline calls its transformer."""

    def __init__(self, model: DiT) -> None:
        super().__init__()
        self.model = model
        self.config = SimpleNamespace(
            sample_size=model.input_size, in_channels=model.in_channels, out_channels=model.out_channels
        )
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.model(x, timestep, class_labels))


class PipelineDecoder(nn.Module):
    """Keeps the latents that DiTPipeline would have decoded."""

    config = SimpleNamespace(scaling_factor=1.0)
    dtype, device = torch.float32, torch.device("cpu")

    def decode(self, latents: Tensor) -> SimpleNamespace:
        self.latents = latents
        return SimpleNamespace(sample=latents)


@pytest.mark.parametrize(("scheduler", "make"), [(DPMSolverMultistepScheduler, dpm_solver),
                                                  (UniPCMultistepScheduler, unipc)])  # fmt: skip
@pytest.mark.parametrize("order", [2, 3])
def test_a_multistep_solver_equals_diffusers_pipeline_on_the_same_weights(
    scheduler: Any, make: Callable[[NoiseSchedule, int], Multistep], order: int, digits: DiT
) -> None:
    """DiTPipeline as it is, with its own spacing."""
    steps, labels = 18, torch.tensor([3, 1])
    vae = PipelineDecoder()
    own = scheduler(beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", solver_order=order)
    pipeline = DiTPipeline(PipelineTransformer(digits), vae, own)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(labels.tolist(), 1.5, torch.Generator().manual_seed(2), num_inference_steps=steps)

    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    solver = make(NoiseSchedule.at(own.timesteps.numpy()), order)
    denoise = guided_denoiser(digits, solver.grid.times, labels, PIPELINE_NULL, 1.5, 1)
    with torch.inference_mode():
        *_, end = solver.sample(denoise, x, no_noise)
    assert_near(end, vae.latents)


@pytest.mark.parametrize("order", [2, 3])
def test_even_log_snr_equals_diffusers_own_loop(order: int, digits: DiT) -> None:
    scheduler = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", solver_order=order, use_lu_lambdas=True
    )
    scheduler.set_timesteps(12)
    labels, x = torch.tensor([0, 2]), torch.randn(2, 1, 8, 8)
    solver = dpm_solver(even_in_log_snr(12), order)
    np.testing.assert_allclose(np.diff(solver.grid.log_snr), np.diff(solver.grid.log_snr).mean(), rtol=1e-4)
    with torch.inference_mode():
        *_, end = solver.sample(guided_denoiser(digits, solver.grid.times, labels, 10, 1.0, 1), x, no_noise)
        for timestep in scheduler.timesteps:
            x = scheduler.step(digits(x, timestep[None], labels)[:, :1], timestep, x).prev_sample
    assert_near(end, x)


@pytest.mark.parametrize("make", [dpm_solver, unipc])
def test_a_multistep_solver_takes_ddims_timesteps_and_keeps_nothing_of_a_batch(
    make: Callable[[NoiseSchedule, int], Multistep], tiny_dit: DiT
) -> None:
    schedule = NoiseSchedule.respaced(7)
    solver: Solver = make(schedule, 3)
    assert solver.grid.times.tolist() == schedule.timesteps.tolist()
    denoise = guided_denoiser(tiny_dit, solver.grid.times, torch.tensor([0, 2]), 5, 1.0, 2)
    x = torch.randn(2, 2, 4, 4)
    with torch.inference_mode():
        first, again = (torch.stack(list(solver.sample(denoise, x, no_noise))) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first) == 7
