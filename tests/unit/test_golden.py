"""Trajectories of this project itself, kept so that the methods are guarded where the authors' are not at hand.

python -m pytest tests/unit/test_golden.py --update-golden     (after a change that is meant to change them)
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from closeness import assert_near, relative_difference
from safetensors.torch import load_file, save_file
from torch import Tensor

from goc.caching import schedule
from goc.caching.cache import AdaptiveCache, ScheduledCache, StepCache
from goc.caching.decision import TeaCache
from goc.caching.expansion import Taylor
from goc.caching.inflection import correct_at
from goc.caching.predictor import GradientQueue, Reuse
from goc.models.dit import DiT
from goc.sampling.guidance import guided_denoiser
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM, DDPM

FOLDER = Path(__file__).parent / "golden"
STEPS, DEPTH = 12, 3
NOISE_SCHEDULE = NoiseSchedule.respaced(STEPS)
LOG_SNR = NOISE_SCHEDULE.log_snr.tolist()
TOLERANCE = 2e-6  # relative, of each step; processors differ by 2e-7

HALF, THREE_QUARTERS = (schedule.uniform(STEPS, DEPTH, ratio) for ratio in (0.5, 0.75))
FORA, SEER = schedule.fora(STEPS, DEPTH, 3), schedule.taylorseer(STEPS, DEPTH, 3)
# a router's mask: some cells of odd steps
ROUTED = schedule.l2c(torch.arange(STEPS * DEPTH * 2).view(STEPS, DEPTH, 2) * 7 % 10 / 10, 0.5)
GATED = ~correct_at([5, 9], tuple(HALF.shape))
POSSIBLE = schedule.whole_steps(range(1, STEPS - 1), STEPS, DEPTH)


def stack(mask: Tensor) -> Tensor:
    return mask[:, :1, :1]


CASES: dict[str, Callable[[], StepCache | None]] = {
    "none": lambda: None,
    "none_ddpm": lambda: None,
    "reuse": lambda: ScheduledCache(HALF, Reuse(HALF)),
    "fora": lambda: ScheduledCache(FORA, Reuse(FORA)),
    "goc": lambda: ScheduledCache(HALF, GradientQueue(HALF, [0.8], GATED)),
    "goc_queue": lambda: ScheduledCache(THREE_QUARTERS, GradientQueue(THREE_QUARTERS, [0.5, 0.2])),
    "goc_logsnr": lambda: ScheduledCache(HALF, GradientQueue(HALF, [1.0], clock=LOG_SNR)),
    "goc_stack": lambda: ScheduledCache(stack(HALF), GradientQueue(stack(HALF), [0.8]), "stack"),
    "l2c": lambda: ScheduledCache(ROUTED, Reuse(ROUTED)),
    "l2c_goc": lambda: ScheduledCache(
        ROUTED, GradientQueue(ROUTED, [0.8], ROUTED.all(2, keepdim=True).expand_as(ROUTED))
    ),
    "taylorseer": lambda: ScheduledCache(SEER, Taylor(SEER, 2)),
    "taylorseer_lite": lambda: ScheduledCache(stack(SEER), Taylor(stack(SEER), 1, LOG_SNR), "stack"),
    "teacache": lambda: AdaptiveCache(POSSIBLE, Reuse(POSSIBLE), TeaCache(0.7)),
}


def trajectory(name: str, data: dict[str, Tensor]) -> Tensor:
    model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=DEPTH, num_heads=2, num_classes=5)
    model.load_state_dict({key.removeprefix("model."): data[key] for key in data if key.startswith("model.")})
    cache = CASES[name]()
    guided = guided_denoiser(
        model if cache is None else lambda x, t, y: model(x, t, y, cache),
        NOISE_SCHEDULE.times,
        data["labels"],
        5,
        1.5,
        1,
    )

    def denoise(x: Tensor, i: int) -> Tensor:
        if cache is not None:
            cache.begin_step(i)
        return guided(x, i)

    solver = (DDPM if name == "none_ddpm" else DDIM)(NOISE_SCHEDULE)
    first, *noises = data["noise"]
    with torch.inference_mode():
        return torch.stack(list(solver.sample(denoise, first, iter(noises).__next__)))


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """Weights and noise of all cases, and their trajectories."""
    path = FOLDER / "trajectories.safetensors"
    if not request.config.getoption("--update-golden"):
        return load_file(path)
    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=DEPTH, num_heads=2, num_classes=5)
    made = {f"model.{key}": 0.15 * torch.randn_like(value) for key, value in model.state_dict().items()}
    made |= {"labels": torch.tensor([0, 3]), "noise": torch.randn(STEPS + 1, 2, 2, 4, 4)}
    made |= {name: trajectory(name, made) for name in CASES}
    save_file(made, path)
    return made


@pytest.mark.parametrize("name", CASES)
def test_trajectory_is_the_kept_one(name: str, data: dict[str, Tensor]) -> None:
    assert_near(list(trajectory(name, data)), list(data[name]), TOLERANCE)


def test_the_kept_trajectories_tell_the_methods_apart(data: dict[str, Tensor]) -> None:
    for name, other in itertools.combinations(CASES, 2):
        largest = max(relative_difference(x, y) for x, y in zip(data[name], data[other], strict=True))
        assert largest > 5 * TOLERANCE, (name, other)
