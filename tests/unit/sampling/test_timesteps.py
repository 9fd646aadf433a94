"""A solver at times from a file: the same where they are its own, and refused where they are not for it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_near
from composing import config_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goc.config import identity, validate
from goc.models.dit import DiT
from goc.runs.denoiser import trajectory_key, uncached_generation
from goc.sampling.linear import coefficients
from goc.sampling.noise import NoiseSchedule
from goc.sampling.options import SAMPLERS, TimedConfig, keyed, plain
from goc.sampling.timesteps import Times, read_times, write_times
from goc.system.errors import ConfigError

TIMED = {
    "ddim": {}, "unipc": {}, "dpm_solver": {"order": 3}, "euler": {},
}  # fmt: skip


def sampler(name: str, **settings: Any) -> TimedConfig:
    made = SAMPLERS[name](**{**TIMED[name], **settings})
    assert isinstance(made, TimedConfig)
    return made


def samples(model: DiT, *settings: str) -> Tensor:
    config = config_of(*settings)
    validate(config)
    made, _ = uncached_generation(config.measurement, config.way, model, torch.device("cpu")).make(range(3))
    return made["latents"]


@pytest.mark.parametrize(("name", "model"), [("ddim", "digits"), ("unipc", "digits"), ("dpm_solver", "digits"),
                                             ("euler", "digits_flow")])  # fmt: skip
def test_a_solvers_own_times_in_a_file_give_its_very_samples_and_others_give_others(
    tiny_dit: DiT, tmp_path: Path, name: str, model: str
) -> None:
    path, settings = tmp_path / "times.json", (f"model={model}", f"sampler={name}", "method=none", "steps=6")
    points = np.asarray(sampler(name).usual_solver(6).grid.times, dtype=np.float64)
    write_times(path, Times(points, points))
    own = samples(tiny_dit, *settings)
    assert torch.equal(samples(tiny_dit, *settings, f"sampler.timesteps={path}"), own)
    moved = points + np.sign(points[-1] - points[0]) * np.array([0, 0, 0, 1e-2, 0, 0]) * abs(points[0] - points[-1])
    for times in (Times(moved, moved), Times(points, moved), Times(moved, points)):
        write_times(path, times)
        assert not torch.equal(samples(tiny_dit, *settings, f"sampler.timesteps={path}"), own)


@given(st.floats(0, 999))
def test_between_whole_timesteps_the_noise_level_is_between_theirs(time: float) -> None:
    around = np.array([np.ceil(time), time, np.floor(time)])
    levels, trained = NoiseSchedule.between(around, around), NoiseSchedule.at(around[[0, 2]].astype(int))
    assert levels.alphas_cumprod[[0, 2]].tolist() == trained.alphas_cumprod.tolist()
    expected = trained.log_snr[1] + (time - around[2]) * (trained.log_snr[0] - trained.log_snr[1])
    assert levels.log_snr[1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", TIMED)
def test_a_solvers_coefficients_are_all_that_it_does(name: str) -> None:
    """On a nonlinear network, where another order of the outputs would show."""
    solver = sampler(name).usual_solver(5)
    x, outputs, seen = torch.randn(2, 1, 2, 2, dtype=torch.float64), list[Tensor](), list[Tensor]()

    def denoise(x: Tensor, i: int) -> Tensor:
        seen.append(x)
        outputs.append(torch.sin((i + 1) * x) + x.square().mean())
        return torch.cat([outputs[-1], x], dim=1)

    *_, end = solver.sample(denoise, x, lambda: x)
    table = coefficients(solver)
    made = torch.einsum("rc,c...->r...", table, torch.stack([x, *outputs]))
    assert_near(made, torch.stack([*seen, end]))
    assert table.triu(1)[:, 1:].eq(0).all()  # no evaluation knows of itself, or of a later one


FALLING = [999.0, 500.5, 20.0]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no times": ({"times": None}, "must have times, a list of numbers"),
    "a word": ({"times": [999, "500", 20]}, "must have times, a list of numbers"),
    "a truth": ({"times": [999, 500, True]}, "must have times, a list of numbers"),
    "not a number": ({"times": [999, float("nan"), 20]}, "must have times, a list of numbers"),
    "beyond the noise": ({"times": [1000, 500, 20]}, "a list of numbers in [0, 999]"),
    "below the data": ({"times": [999, 500, -1]}, "a list of numbers in [0, 999]"),
    "late at the start": ({"times": [998, 500, 20]}, "times must fall from 999 to 0 at most, no two of them equal"),
    "rising": ({"times": [999, 20, 500]}, "times must fall from 999"),
    "twice": ({"times": [999, 500, 500]}, "times must fall from 999"),
    "fewer for the network": ({"network_times": [999, 500]}, "must have as many network_times as times, 3"),
    "of another solver": ({"trained_for": {"sampler": "unipc"}}, "was trained for sampler=unipc, not for ddim"),
    "of nothing": ({"trained_for": "ddim"}, "trained_for must say for which model"),
    "of more steps": ({"times": [999, 500, 20, 3]}, "is for steps=4, not for 3"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_a_solvers_times_is_one_line(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"times": FALLING, **change}))
    with pytest.raises(ConfigError) as refused:
        validate(config_of("method=none", "steps=3", f"sampler.timesteps={path}"))
    assert str(refused.value).startswith(f"sampler.timesteps={path}: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "says"), [("[1]", "it must have times"), ("{", "not a JSON of times"),
                                               (None, "no such file; goc train timesteps trains them")])  # fmt: skip
def test_what_is_no_file_of_times_is_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "times.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_times(str(path), "ddim", (999, 0), 3)


@pytest.mark.parametrize(("times", "fine"), [([0, 0.5], True), ([0, 1], False), ([0.1, 0.5], False)])
def test_times_of_flow_matching_rise_from_0_to_below_1(tmp_path: Path, times: list[float], fine: bool) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"times": times}))
    euler = sampler("euler", timesteps=str(path))
    if fine:
        np.testing.assert_allclose(euler.solver(2).grid.log_snr, np.log([0.125 / 0.875, 1]), atol=1e-12)
    else:
        with pytest.raises(ConfigError, match=r"times must rise from 0 to below 1"):
            euler.check_steps(2)


def test_where_steps_are_is_said_once() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.spacing=logsnr: must be linear with sampler\.timesteps"):
        validate(config_of("sampler=unipc", "sampler.spacing=logsnr", "sampler.timesteps=times.json"))


def test_times_are_part_of_what_a_run_is_by_their_content_and_of_none_that_has_none(
    tiny_dit: DiT, tmp_path: Path
) -> None:
    path = tmp_path / "{model}-{sampler}{steps}.json"
    file = tmp_path / "digits-ddim3.json"
    settings = ("method=none", "steps=3", f"sampler.timesteps='{path}'")
    each = []
    for last in (20.0, 30.0):
        write_times(file, Times(np.array([*FALLING[:2], last]), np.array(FALLING)))
        config = config_of(*settings)
        key = trajectory_key(config.measurement, config.way, False, "a", tiny_dit)
        each.append((identity(config), key))
        assert plain(config.way.sampler) == {"name": "ddim", "timesteps": str(file)}
        assert config.way.sampler.label(3) == "DDIM(learned)-3"
    assert each[0][0] != each[1][0]
    assert each[0][1] != each[1][1]
    assert plain(SAMPLERS["ddim"]()) == keyed(SAMPLERS["ddim"]()) == "ddim"
    assert plain(SAMPLERS["unipc"]()) == {"name": "unipc", "order": 2, "spacing": "linear"}
    assert "files" not in identity(config_of("method=none", "steps=3"))


def test_times_of_another_model_or_guidance_are_refused(tiny_dit: DiT, tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    origin = {"model_sha256": "a", "cfg_scale": 1.0, "sampler": "ddim"}
    write_times(file, Times(np.array(FALLING), np.array(FALLING)), trained_for=origin)
    config = config_of("method=none", "steps=3", f"sampler.timesteps={file}")

    def key(sha256: str, cfg_scale: float = 1.0) -> dict[str, Any]:
        measurement = replace(config.measurement, cfg_scale=cfg_scale)
        return trajectory_key(measurement, config.way, False, sha256, tiny_dit)

    key("a")
    with pytest.raises(ConfigError, match="was trained for model_sha256=a, not for b"):
        key("b")
    with pytest.raises(ConfigError, match=r"was trained for cfg_scale=1\.0, not for 4"):
        key("a", 4.0)
