"""Samples of a pipeline by seed and prompt: what a run needs of them, and what they cost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_near
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from goc.caching.schedule import cached_steps_of
from goc.metrics.distance import distance
from goc.pipelines.folder import load_pipeline
from goc.pipelines.generation import PipelineCalls, PipelineGeneration
from goc.pipelines.method import way_of
from goc.pipelines.planning import pipeline_plan
from goc.planning.plan import Plan
from goc.sampling.generation import sample_generator
from goc.system.errors import GocError

STEPS = 6
PROMPTS = ("a red cat", "two birds above the sea", "an old map")
CPU = torch.device("cpu")

Planned = Callable[..., PipelineGeneration]


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> Any:
    return load_pipeline(tiny_pipeline, None, CPU)


@pytest.fixture(scope="module")
def calls(pipe: Any) -> PipelineCalls:
    return PipelineCalls(pipe, PROMPTS, STEPS, 3.0, {}, CPU)


@pytest.fixture
def uncached(calls: PipelineCalls) -> PipelineGeneration:
    return PipelineGeneration(calls, seed=0)


@pytest.fixture
def plan_of(calls: PipelineCalls, tmp_path: Path) -> Callable[..., Plan]:
    def make(method: str, ratio: float, **settings: Any) -> Plan:
        way = way_of(method, ratio, STEPS, {"inflection_threshold": None, **settings})
        way.calibration_samples = 2
        return pipeline_plan(way, calls, {}, tmp_path)

    return make


@pytest.fixture
def cached(uncached: PipelineGeneration, plan_of: Callable[..., Plan]) -> Planned:
    def make(method: str, ratio: float, **settings: Any) -> PipelineGeneration:
        return replace(uncached, new_cache=plan_of(method, ratio, **settings).new_cache, method=method)

    return make


def test_a_sample_does_not_depend_on_its_batch(uncached: PipelineGeneration) -> None:
    together, _ = uncached.make(range(5))
    for index in (1, 4):
        alone, _ = uncached.make(range(index, index + 1))
        assert_near(alone["latents"][0], together["latents"][index], 1e-4)
        assert (alone["images"][0].int() - together["images"][index].int()).abs().max() <= 1


def test_prompts_are_counted_round_and_seeds_are_not(uncached: PipelineGeneration) -> None:
    made, _ = uncached.make(range(5))
    assert made["labels"].tolist() == [0, 1, 2, 0, 1]
    assert made["images"].shape == (5, 3, 32, 32)
    assert made["images"].dtype == torch.uint8
    assert not torch.equal(made["images"][0], made["images"][3])
    others = [replace(uncached, seed=1), replace(uncached, calls=replace(uncached.calls, prompts=("a blue dog",)))]
    for other in others:
        images = other.make(range(1))[0]["images"]
        assert not torch.equal(images[0], made["images"][0])


def test_latents_and_images_are_what_the_pipeline_gives_by_itself(uncached: PipelineGeneration, pipe: Any) -> None:
    made, _ = uncached.make(range(2, 3))

    def itself(output_type: str) -> Any:
        given = {"generator": sample_generator(0, 2), "guidance_scale": 3.0, "num_inference_steps": STEPS}
        return pipe(PROMPTS[2], output_type=output_type, **given).images

    assert torch.equal(made["latents"], itself("latent"))
    assert np.array_equal(made["images"][0].permute(1, 2, 0).numpy(), np.array(itself("pil")[0]))


@pytest.mark.parametrize("site", ["branch", "stack"])
def test_a_cache_that_caches_nothing_changes_no_bit_and_saves_nothing(
    uncached: PipelineGeneration, cached: Planned, site: str
) -> None:
    expected, _ = uncached.make(range(2))
    idle = cached("reuse", 0.5, site=site)
    new_cache = idle.new_cache
    assert new_cache is not None

    def nothing() -> Any:
        cache = new_cache()
        cache.mask, cache.cached = torch.zeros_like(cache.mask), torch.zeros_like(cache.mask).tolist()
        return cache

    generation = replace(idle, new_cache=nothing)
    made, (cache,) = generation.make(range(2))
    assert all(torch.equal(made[name], expected[name]) for name in expected)
    cost = generation.cost([cache])
    assert cost["cache_ratio"] == 0
    assert cost["macs_per_image"] == uncached.cost(None)["macs_per_image"]


def test_macs_are_the_transformers_as_torch_counts_them(uncached: PipelineGeneration, pipe: Any) -> None:
    given: list[dict[str, Tensor]] = []
    handle = pipe.transformer.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    uncached.make(range(1))
    handle.remove()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        pipe.transformer(**given[0])
    assert len(given) == uncached.evaluations == STEPS
    assert uncached.cost(None)["macs_per_image"] == STEPS * counter.get_total_flops() / 2
    assert uncached.macs_per_forward == counter.get_total_flops() / 4  # both halves of guidance are in the batch


def test_half_reused_costs_less_by_its_modules_and_leaves_the_pipeline_as_it_was(
    uncached: PipelineGeneration, cached: Planned
) -> None:
    expected, _ = uncached.make(range(2))
    generation = cached("reuse", 0.5)
    made, (cache,) = generation.make(range(2))
    cost, full = generation.cost([cache]), uncached.cost(None)["macs_per_image"]
    assert cost["cache_ratio"] == 0.5
    assert 0.5 * full < cost["macs_per_image"] < 0.7 * full  # embeddings and projections are computed in every step
    assert cost["peak_cache_tensors"] > 0
    assert not torch.equal(made["latents"], expected["latents"])
    again, _ = uncached.make(range(2))
    assert torch.equal(again["images"], expected["images"])
    once_more, _ = generation.make(range(2))
    assert torch.equal(once_more["latents"], made["latents"])


def test_a_sample_whose_steps_are_decided_does_not_depend_on_its_batch(cached: Planned) -> None:
    generation = cached("first_block", 0.5, threshold=0.5)
    together, caches = generation.make(range(3))
    for index in range(3):
        alone, _ = generation.make(range(index, index + 1))
        assert torch.equal(alone["latents"][0], together["latents"][index])
    cost = generation.cost(caches)
    assert cost["cache_ratio"] == pytest.approx(sum(cost["cache_ratios"]) / 3)
    assert 0 < cost["cache_ratio"] < 1
    assert len(generation.step_seconds(2)) == STEPS


def test_psnr_to_the_target_falls_with_the_cache_ratio(uncached: PipelineGeneration, cached: Planned) -> None:
    target, _ = uncached.make(range(4))
    psnr = []
    for ratio in (1 / 3, 2 / 3):
        made, _ = cached("reuse", ratio).make(range(4))
        numbers, each = distance([(made, target)])
        assert len(each["psnr_image"]) == 4
        psnr.append(numbers["psnr_image"])
    assert psnr[1] < psnr[0] - 1


def test_every_step_is_timed_and_no_image_is_decoded(
    uncached: PipelineGeneration, cached: Planned, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations = [uncached, cached("taylorseer", 0.5)]
    monkeypatch.setattr(pipe.vae, "decode", None)
    for generation in generations:
        seconds = generation.step_seconds(2)
        assert len(seconds) == STEPS
        assert min(seconds) > 0


def test_the_step_after_which_values_are_not_finite_is_named(calls: PipelineCalls) -> None:
    beyond = PipelineGeneration(replace(calls, cfg_scale=1e38), seed=0, divergence_hint="; try another")
    with pytest.raises(GocError, match=r"samples 0\.\.1: not finite after step [0-5] of 7 \(method none\); try"):
        beyond.make(range(2))


def test_what_a_pipeline_refuses_is_one_line(calls: PipelineCalls) -> None:
    odd = PipelineGeneration(replace(calls, more={"height": 31}), seed=0)
    with pytest.raises(GocError, match=r"StableDiffusion3Pipeline: refuses its call \(`height` and `width` have to be"):
        odd.make(range(1))


def test_gates_and_schedules_are_measured_once_and_kept(
    plan_of: Callable[..., Plan], pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[tuple[str, dict[str, Any]]] = [("goc", {"inflection_threshold": -0.3}), ("smoothcache", {})]
    plans = [plan_of(method, 0.5, **more) for method, more in settings]
    gated, smooth = plans
    assert gated.alignment is not None
    assert len(gated.describe()["inflection"]["alignment"]) == STEPS
    assert cached_steps_of(gated.mask) == [1, 3, 5]
    assert 0 < smooth.mask.double().mean() < 1
    monkeypatch.setattr(type(pipe.transformer), "forward", None)  # nothing is computed again
    for plan, (method, more) in zip(plans, settings, strict=True):
        again = plan_of(method, 0.5, **more)
        assert torch.equal(again.mask, plan.mask)
        assert str(again.describe()) == str(plan.describe())  # a NaN equals nothing
