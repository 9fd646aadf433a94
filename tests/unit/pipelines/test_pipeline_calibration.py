"""What calibrations of a pipeline find, how plans are kept, and what a cache says it did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_near
from tiny_pipelines import BLOCKS, MAKERS, STEPS, caching, call, dit, flux, pixart, prompt, sd3

import goc
from goc.caching.calibration import AlignmentRecorder
from goc.caching.schedule import cache_ratio_of, computed_steps_of, is_whole_steps
from goc.pipelines.calibrate import calibrate
from goc.pipelines.enable import attach
from goc.pipelines.plan_file import PipelinePlan, load_plan
from goc.pipelines.session import Run

CALIBRATED = ["budcache", "dpcache", "dynamic", "goc", "goc_anchored", "goc_logsnr", "goc_stack", "halving", "magcache",
              "searched", "smoothcache", "smoothcache_goc", "teacache"]  # fmt: skip


def plan_of(pipe: Any, method: str, prompts: int = 1, guidance: float = 3.0, **settings: Any) -> PipelinePlan:
    pipe.set_progress_bar_config(disable=True)
    asked = [prompt(pipe, 5 + i, guidance) for i in range(prompts)]
    return calibrate(pipe, asked, method, steps=STEPS, call={"guidance_scale": guidance}, **settings)


@pytest.mark.parametrize("method", CALIBRATED)
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_calibrated_method_works_after_its_plan_was_written_and_read(name: str, method: str, tmp_path: Path) -> None:
    pipe = MAKERS[name]()
    settings = {"search_evaluations": 3} if method in ("searched", "budcache", "halving") else {}
    uncached = call(pipe)
    plan = plan_of(pipe, method, **settings)
    assert torch.equal(call(pipe), uncached)
    with caching(pipe, plan=plan):
        expected = call(pipe)
    plan.save(tmp_path / "plan.json")
    json.loads((tmp_path / "plan.json").read_text())
    cache = goc.enable_cache(pipe, plan=load_plan(tmp_path / "plan.json"))
    assert torch.equal(call(pipe), expected)
    assert not torch.equal(expected, uncached)
    assert 0 < cache.summary().cached_share < 1


def test_gates_are_where_changes_turn_back() -> None:
    pipe = sd3()
    plan = plan_of(pipe, "goc", prompts=2)
    assert plan.correct is not None
    assert plan.alignment is not None
    recorders = {}

    def new_cache(run: Run) -> AlignmentRecorder:
        return recorders.setdefault(run.stream, AlignmentRecorder(run.layout.shape(run.steps)))

    attach(pipe, new_cache)
    for asked in (prompt(pipe, 5), prompt(pipe, 6)):
        index = asked["prompt_embeds"].shape[1] - 5
        generator = torch.Generator().manual_seed(2503 + index)
        pipe(**asked, num_inference_steps=STEPS, guidance_scale=3.0, generator=generator)
    (recorder,) = recorders.values()
    seen = recorder.square.sum(dim=0) > 0
    mean = (recorder.dot / (recorder.square * recorder.square.roll(1, 0)).sqrt())[2:, seen].mean(dim=1)
    assert plan.alignment[2:] == pytest.approx(mean.tolist())
    assert (plan.correct[2:, seen].all(dim=1) == (mean >= 0)).all()


def test_gates_of_cells_are_no_coarser_than_places() -> None:
    shares = []
    for threshold in (-0.4, 0.0, 0.4):
        settings = {"inflection_scope": "cell", "inflection_signal": "span", "inflection_threshold": threshold}
        plan = plan_of(sd3(), "goc", **settings)
        assert plan.correct is not None
        shares += plan.correct.flatten(1).double().mean(dim=1).tolist()
    assert any(0 < share < 1 for share in shares)


def test_cells_that_no_call_has_are_gated_with_their_step() -> None:
    plan = plan_of(sd3(), "goc", inflection_threshold=1.5)
    assert plan.correct is not None
    assert plan.correct.flatten(1).any(dim=1).tolist() == [True, True] + [False] * (plan.steps - 2)


def test_corrected_steps_can_be_given_without_a_calibration() -> None:
    pipe = sd3()
    with caching(pipe, "reuse", 0.5):
        reused = call(pipe)
    goc.enable_cache(pipe, "goc", 0.5, correct_steps=[1])  # where there is no gradient yet
    assert_near(call(pipe), reused)


def test_smoothcache_is_measured_by_kinds_of_branches() -> None:
    plan = plan_of(sd3(), "smoothcache", cache_ratio=0.4)
    assert plan.mask.shape == (STEPS, BLOCKS, 2)
    assert (plan.mask == plan.mask[:, :1]).all()


def test_a_searched_schedule_is_the_best_of_those_tried() -> None:
    pipe = pixart()
    plan = plan_of(pipe, "searched", search_evaluations=30, cache_ratio=0.5)
    assert is_whole_steps(plan.mask)
    assert cache_ratio_of(plan.mask) == 0.5
    asked = {**prompt(pipe), "num_inference_steps": STEPS, "guidance_scale": 3.0, "return_dict": False}

    def sample() -> torch.Tensor:
        return pipe(**asked, generator=torch.Generator().manual_seed(2503))[0]

    target, distances = sample(), []
    with caching(pipe, plan=plan):
        distances.append((sample() - target).norm())
    for interval in (2, 3):
        with caching(pipe, "taylorseer", interval=interval):
            distances.append((sample() - target).norm())
    assert min(distances) == distances[0]
    assert len(computed_steps_of(plan.mask)) == STEPS / 2


@pytest.mark.parametrize("site", ["branch", "stack"])
def test_teacache_skips_more_at_a_larger_threshold(site: str) -> None:
    pipe = dit()
    expected = call(pipe)
    shares = []
    for threshold in (0.0, 0.5, 1e9):
        with caching(pipe, "teacache", threshold=threshold, site=site) as cache:
            samples = call(pipe)
            shares.append(cache.summary().cached_share)
            assert torch.equal(samples, expected) == (threshold == 0)
    assert shares[0] == 0 < shares[1] <= shares[2]
    assert shares[2] == pytest.approx((STEPS - 2) / STEPS)


def test_a_summary_counts_what_was_done() -> None:
    pipe = flux()
    cache = goc.enable_cache(pipe, "reuse", 0.5, site="stack")
    assert "not called yet" in str(cache.summary())
    call(pipe, guidance=3.0)
    summary = cache.summary()
    assert summary.steps == STEPS
    assert summary.calls == {"full": STEPS, "mixed": 0, "cached": STEPS}  # two a step
    assert summary.cached_share == 0.5
    assert summary.tensors_held == 4  # image's and text's, of two streams
    assert summary.macs_saved is not None
    assert 0.4 < summary.macs_saved < 0.5
    assert summary.full_seconds is not None
    assert summary.cached_seconds is not None
    lines = str(summary).splitlines()
    assert len(lines) == 5
    assert lines[1] == "cached cells: 50.0%"


@pytest.mark.parametrize("name", list(MAKERS))
def test_saved_operations_are_those_of_the_skipped_modules(name: str) -> None:
    """A call with everything cached costs what embeddings, modulations and the last layer cost."""
    pipe = MAKERS[name]()
    cache = goc.enable_cache(pipe, "reuse", 0.5, site="stack")
    call(pipe, guidance=1.0)
    (costs,) = cache.transformers[0].operations.known.values()
    blocks = sum(cost for key, cost in costs.items() if key != (-1, 0))
    assert 0 < blocks < costs[-1, 0]
    assert cache.record.saved_macs == pytest.approx(STEPS / 2 * blocks)


@pytest.mark.slow
@pytest.mark.parametrize("site", ["branch", "stack"])
@pytest.mark.nightly
def test_compiled_blocks_give_the_same(site: str) -> None:
    pipe = dit()
    with caching(pipe, "goc", 0.5, site=site):
        expected = call(pipe)
    for block in pipe.transformer.transformer_blocks:
        block.compile()
    uncached = call(pipe)
    with caching(pipe, "goc", 0.5, site=site):
        assert_near(call(pipe), expected)
    assert_near(call(pipe), uncached)  # compiled anew, which may round in another way
