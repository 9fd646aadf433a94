import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goc.sampling.guidance import guide, guided_denoiser
from goc.sampling.noise import NoiseSchedule, linear_betas
from goc.sampling.solvers import ddim_step, ddpm_log_variance, ddpm_mean, ddpm_step, sample


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
    *_, final = sample(lambda _x, _i: output, x, schedule)
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


def test_guidance_never_reaches_the_variance_of_a_model_with_few_channels() -> None:
    cond, uncond = torch.randn(1, 2, 1, 1), torch.randn(1, 2, 1, 1)
    assert torch.equal(guide(torch.cat([cond, uncond]), 4.0, channels=3)[:, 1], cond[:, 1])


@pytest.mark.parametrize(("cfg_scale", "labels"), [(1.0, [3, 1]), (1.5, [3, 1, 9, 9])])
def test_without_guidance_the_unconditional_half_is_not_computed(cfg_scale: float, labels: list[int]) -> None:
    seen: list[list[int]] = []

    def model(x: Tensor, _t: Tensor, y: Tensor) -> Tensor:
        seen.append(y.tolist())
        return torch.cat([x, x], dim=1)

    denoise = guided_denoiser(model, NoiseSchedule.respaced(4), torch.tensor([3, 1]), 9, cfg_scale, 3)
    assert denoise(torch.zeros(2, 1, 2, 2), 0).shape == (2, 2, 2, 2)
    assert seen == [labels]
