"""Which step a call of the transformer belongs to: with one call in a step or several, and timesteps that repeat."""

from typing import Any

import pytest
import torch
from closeness import assert_near
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from tiny_pipelines import MAKERS, caching, call, dit, pixart, prompt, sd3

import goc
from goc.pipelines.steps import StepCounter

Calls = list[tuple[float, str | None]]


def located(timesteps: list[float], calls: Calls) -> list[tuple[int, str]]:
    counter = StepCounter(timesteps)
    return [counter.locate(timestep, name) for timestep, name in calls]


def test_a_step_is_where_the_timestep_changes_whatever_unit_it_is_given_in() -> None:
    assert located([900, 500, 100], [(0.9, None), (0.5, None), (0.1, None)]) == [(0, "#0"), (1, "#0"), (2, "#0")]


def test_two_calls_in_a_step_are_two_streams_by_name_or_by_order() -> None:
    named: Calls = [(t, name) for t in (9, 5) for name in ("cond", "uncond")]
    assert located([9, 5], named) == [(0, "cond#0"), (0, "uncond#0"), (1, "cond#0"), (1, "uncond#0")]
    assert located([9, 5], [(t, None) for t in (9, 9, 5, 5)]) == [(0, "#0"), (0, "#1"), (1, "#0"), (1, "#1")]


def test_a_timestep_that_the_scheduler_repeats_is_several_steps() -> None:
    heun = [9, 5, 5, 1, 1]
    assert [step for step, _ in located(heun, [(t, None) for t in heun])] == [0, 1, 2, 3, 4]
    twice: Calls = [(t, None) for t in heun for _ in range(2)]
    assert located(heun, twice) == [(step, f"#{call}") for step in range(5) for call in range(2)]
    named: Calls = [(t, name) for t in heun for name in ("cond", "uncond")]
    assert located(heun, named) == [(step, f"{name}#0") for step in range(5) for name in ("cond", "uncond")]


def test_a_name_twice_in_a_step_is_another_stream() -> None:
    assert located([9, 5], [(9, "a"), (9, "a"), (5, "a")]) == [(0, "a#0"), (0, "a#1"), (1, "a#0")]


@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler,
     UniPCMultistepScheduler],
)  # fmt: skip
def test_any_scheduler_is_followed(scheduler: Any) -> None:
    pipe = pixart()
    pipe.scheduler = scheduler()
    cache = goc.enable_cache(pipe, "reuse", 0.5)
    call(pipe)
    summary = cache.summary()
    assert summary.steps == len(pipe.scheduler.timesteps)
    assert summary.calls["cached"] == round(summary.steps / 2)
    assert sum(summary.calls.values()) == summary.steps


def test_a_flow_of_two_evaluations_a_step_is_followed() -> None:
    pipe = sd3()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    cache = goc.enable_cache(pipe, "goc", 0.5, clock="logsnr")
    assert call(pipe).isfinite().all()
    assert sum(cache.summary().calls.values()) == len(pipe.scheduler.timesteps)


def test_a_step_in_which_a_stream_was_not_called_makes_it_start_anew() -> None:
    pipe = sd3()
    more = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.6}
    expected = call(pipe, steps=8, **more)
    cache = goc.enable_cache(pipe, "taylorseer", 0.5)
    samples = call(pipe, steps=8, **more)
    assert samples.isfinite().all()
    assert not torch.equal(samples, expected)
    assert cache.tensors_held() == 0


def test_a_pipeline_that_starts_at_an_image_has_fewer_steps() -> None:
    from diffusers import StableDiffusion3Img2ImgPipeline

    source, vae = sd3(), dit().vae
    vae.register_to_config(shift_factor=0.0)
    pipe = StableDiffusion3Img2ImgPipeline(**{**source.components, "vae": vae})
    pipe.set_progress_bar_config(disable=True)
    pipe.check_inputs = lambda *_, **__: None  # which misses pooled embeddings that are there
    cache = goc.enable_cache(pipe, "reuse", 0.5)
    asked = {**prompt(source), "image": torch.zeros(1, 3, 8, 8), "height": 8, "width": 8, "strength": 0.5}
    pipe(**asked, num_inference_steps=8)
    assert cache.summary().steps == 4
    assert cache.summary().calls == {"full": 2, "mixed": 0, "cached": 2}


def test_each_stream_has_features_of_its_own() -> None:
    """With cond and uncond mixed up, a pair of calls would give what the other's features give."""
    pipe = MAKERS["wan"]()
    with caching(pipe, "reuse", 0.5):
        both = call(pipe, guidance=1.0)
    goc.enable_cache(pipe, "reuse", 0.5)
    guided = call(pipe, guidance=1.0 + 1e-6)  # calls the transformer twice, and hardly uses the second
    assert_near(guided, both, 1e-4)
