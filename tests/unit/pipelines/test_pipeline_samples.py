"""Each sample of a call decides by itself: in a batch it is what it is alone, whatever the others skip."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from closeness import assert_near, relative_difference
from compat.loop import difference
from compat.pipes import OfPipeline, all_pipelines, build
from compat.special import TOO_LARGE
from tiny_pipelines import MAKERS, caching, flux, prompt, sd3, wan, wan22
from torch import Tensor, nn

import goc
from goc.caching.cache import AdaptiveCache
from goc.pipelines.hooks.rows import RowsError, rows_of

STEPS = 10
ALL = range(3)
# of each pipeline and method, one with which samples skip different steps
THRESHOLDS = {
    "sd3": {"first_block": 1.1, "dicache": 0.6, "seacache": 0.2, "easycache": 0.7, "teacache": 0.8},
    "flux": {"first_block": 1.0, "dicache": 1.0, "seacache": 0.2, "easycache": 0.8, "teacache": 0.75},
    "wan": {"first_block": 0.5, "dicache": 0.2, "seacache": 0.4, "easycache": 0.4, "teacache": 0.2},
}
CASES = [(name, method) for name, methods in THRESHOLDS.items() for method in methods]
# whose arguments are lists of rows, repeated shapes, a ControlNet's residuals, rows of sound beside those of a video
SPECIAL = ["ZImageImg2ImgPipeline", "QwenImagePipeline", "FluxControlNetPipeline", "LTX2Pipeline"]


def make(pipe: Any, samples: Sequence[int], generators: bool = True) -> Tensor:
    """Some of three samples in one call; each has a prompt and, if `generators`, a generator of its own."""
    pipe.set_progress_bar_config(disable=True)
    first, last = samples[0], samples[-1] + 1
    asked = {name: value[first:last] if isinstance(value, Tensor | list) else value
             for name, value in prompt(pipe, batch=3).items()}  # fmt: skip
    seeds = [torch.Generator().manual_seed(sample) for sample in samples]
    common = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "return_dict": False}
    return pipe(**asked, **common, generator=seeds if generators else seeds[0])[0]


def caches_of(cache: Any) -> list[AdaptiveCache]:
    """The caches that are made from now on: in a step one for each sample, and again for each of the step's calls."""
    made, new_cache = list[AdaptiveCache](), cache.new_cache

    def remember(run: Any) -> AdaptiveCache:
        made.append(new_cache(run))
        return made[-1]

    cache.new_cache = remember
    return made


def steps_of(made: Sequence[AdaptiveCache], samples: int) -> list[list[list[int]]]:
    """The skipped steps of each sample, in each of its streams."""
    skipped = [cache.mask.flatten(1).any(dim=1).nonzero().flatten().tolist() for cache in made]
    return [skipped[sample::samples] for sample in range(samples)]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_sample_is_in_a_batch_what_it_is_alone(name: str, method: str) -> None:
    pipe = MAKERS[name]()
    uncached = make(pipe, ALL)
    cache = goc.enable_cache(pipe, method, threshold=THRESHOLDS[name][method])
    made = caches_of(cache)
    together = make(pipe, ALL)
    steps, shares = steps_of(made, 3), cache.summary().cached_shares
    alone = []
    for sample in ALL:
        made.clear()
        alone.append(make(pipe, [sample]))
        assert steps_of(made, 1) == [steps[sample]]
    assert_near(together, torch.cat(alone))
    assert any(steps[0] != other for other in steps[1:])
    assert shares == cache.summary().cached_shares[3:]
    assert cache.summary().together is None
    assert cache.tensors_held() == 0
    goc.disable_cache(pipe)
    assert torch.equal(make(pipe, ALL), uncached)
    assert relative_difference(together, uncached) > 1e-4


def test_two_transformers_that_take_turns_decide_for_each_sample() -> None:
    pipe = wan22()
    cache = goc.enable_cache(pipe, "easycache", threshold=0.6)
    together = make(pipe, ALL)
    assert_near(together, torch.cat([make(pipe, [sample]) for sample in ALL]))
    shares = cache.summary().cached_shares
    assert shares[:3] == shares[3:]
    assert len(set(shares)) > 1


@pytest.mark.parametrize("method", THRESHOLDS["sd3"])
def test_one_sample_with_both_halves_of_guidance_is_one_call_as_before(method: str) -> None:
    pipe = sd3()
    samples = []
    for decides_for in ("sample", "batch"):
        with caching(pipe, method, threshold=THRESHOLDS["sd3"][method], decides_for=decides_for):
            samples.append(make(pipe, [1]))
    assert torch.equal(*samples)


def test_with_a_plan_each_sample_is_decided_as_well() -> None:
    pipe = sd3()
    plan = goc.calibrate(pipe, [prompt(pipe)], method="teacache", cache_ratio=0.5, steps=STEPS)
    cache = goc.enable_cache(pipe, plan=plan)
    assert_near(make(pipe, ALL), torch.cat([make(pipe, [sample]) for sample in ALL]))
    shares = cache.summary().cached_shares
    assert min(shares) > 0
    assert shares[:3] == shares[3:]


def test_the_summary_has_the_spread_over_samples() -> None:
    pipe = sd3()
    cache = goc.enable_cache(pipe, "first_block", threshold=1.0)
    make(pipe, ALL)
    summary = cache.summary()
    assert sum(summary.calls.values()) == 3 * STEPS
    assert summary.cached_share == pytest.approx(sum(summary.cached_shares) / 3)
    low, high = min(summary.cached_shares), max(summary.cached_shares)
    assert f"cached cells: {summary.cached_share:.1%}, {low:.1%} to {high:.1%} over 3 samples" in str(summary)


def test_what_is_changed_in_place_is_copied_for_each_sample() -> None:
    pipe = sd3()

    def add_in_place(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        output[1].add_(0.5)

    pipe.transformer.transformer_blocks[0].register_forward_hook(add_in_place)
    cache = goc.enable_cache(pipe, "teacache", threshold=0.5, site="stack")
    together = make(pipe, ALL)
    assert cache.transformers[0].copies
    assert 0 < cache.summary().cached_share < 1
    assert_near(together, torch.cat([make(pipe, [sample]) for sample in ALL]))


def test_an_error_for_one_of_the_samples_leaves_nothing_behind() -> None:
    pipe = sd3()
    cache = goc.enable_cache(pipe, "first_block", threshold=1.0)
    expected = make(pipe, ALL)
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # of the second sample, in the second step
            raise ArithmeticError

    handle = pipe.transformer.transformer_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        make(pipe, ALL)
    handle.remove()
    assert cache.tensors_held() == 0
    assert "prepare_latents" not in vars(pipe)
    assert torch.equal(make(pipe, ALL), expected)


def together(pipe: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """Check that a pipeline's samples are decided together, and that this is said once, with the reason."""
    with caching(pipe, "easycache", threshold=0.6, decides_for="batch"):
        expected = make(pipe, ALL)
    assert not caplog.records
    cache = goc.enable_cache(pipe, "easycache", threshold=0.6)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(make(pipe, ALL), expected)
        assert torch.equal(make(pipe, ALL), expected)
    (record,) = caplog.records
    assert record.message == f"method=easycache: decides for all samples of a call together: {why}"
    assert f"samples of a call were decided together: {why}" in str(cache.summary())
    assert cache.summary().cached_shares == ()


def test_as_many_tokens_as_rows_are_decided_together(caplog: pytest.LogCaptureFixture) -> None:
    """Positions [tokens, 3] are then not told from rows."""
    pipe = flux()
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda *args, **kwargs: [
        value[:, :3] if value.ndim == 3 else value[:3] if value.ndim == 2 and value.shape[1] == 3 else value
        for value in encode(*args, **kwargs)
    ]
    together(pipe, "txt_ids (Tensor [3, 3]) may have a part for each, or may not", caplog)


def test_an_output_without_rows_is_decided_together(caplog: pytest.LogCaptureFixture) -> None:
    pipe = sd3()
    forward = pipe.transformer.forward
    pipe.transformer.forward = lambda **given: (*forward(**given), nn.Identity())
    together(pipe, "what the transformer gives has a Identity without a part for each", caplog)


def test_a_loop_of_ones_own_says_how_many_samples_it_makes() -> None:
    pipe = wan()
    latents = torch.randn(3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def loop(x: Tensor) -> Tensor:
        pipe.scheduler.set_timesteps(STEPS)
        for t in pipe.scheduler.timesteps:
            text = prompt(pipe, batch=3)["prompt_embeds"][: len(x)]
            output = pipe.transformer(x, t.expand(len(x)), text, return_dict=False)[0]
            x = pipe.scheduler.step(output, t, x, return_dict=False)[0]
        return x

    unknown = goc.enable_cache(pipe, "easycache", threshold=0.6)
    with unknown.call():
        loop(latents)
    assert unknown.summary().together == "the pipeline does not say how many there are"
    goc.disable_cache(pipe)
    cache = goc.enable_cache(pipe, "easycache", threshold=0.6)
    with cache.call(samples=3):
        loop(latents)
    assert cache.summary().together is None
    assert len(cache.summary().cached_shares) == 3


def test_labels_or_generators_say_how_many_samples_there_are_where_no_latents_do() -> None:
    for generators in (False, True):
        pipe = MAKERS["dit"]()
        cache = goc.enable_cache(pipe, "teacache", threshold=1.0)
        make(pipe, ALL, generators)
        assert cache.summary().together is None
        assert len(cache.summary().cached_shares) == 3


@pytest.mark.parametrize(
    ("arguments", "samples", "expected"),
    [
        ({"txt_ids": torch.zeros(5, 3)}, 2, None),
        ({"txt_ids": torch.zeros(4, 3)}, 2, r"txt_ids \(Tensor \[4, 3\]\) may have a part for each, or may not"),
        ({"image_rotary_emb": (torch.zeros(16, 8), torch.zeros(16, 8))}, 2, None),
        ({"image_rotary_emb": (torch.zeros(4, 8), torch.zeros(4, 8))}, 2, "image_rotary_emb"),
        ({"pooled": torch.zeros(4, 4), "mask": torch.zeros(4, 4)}, 2, None),
        ({"kv_cache": [{"full": torch.zeros(3, 4, 2, 6)}]}, 2, "kv_cache"),
        ({"kv_cache": object()}, 2, r"kv_cache \(object\)"),
        ({"residuals": torch.zeros(2, 3)}, 2, "residuals"),  # a part for each sample, but not for each row
        ({"residuals": [torch.zeros(4, 3)] * 4}, 2, None),  # of as many blocks as there are rows
        ({"shapes": [[(1, 4, 4)]] * 4}, 2, None),
        ({"shapes": [[(1, 4, 4)], [(1, 4, 8)]] * 2}, 2, "shapes"),
        ({"fps": [24, 24, 24, 24]}, 2, "fps"),
        ({"rope_pos": [torch.arange(n) for n in (2, 3, 5, 6)]}, 2, "rope_pos"),
        ({"scale": (1.0, 2.0, 2.0, 2.0), "kwargs": {"a": 1, "b": "c"}, "more": None}, 2, None),
        ({}, 3, "4 rows are not of 3 samples"),
        ({}, None, "the pipeline does not say how many there are"),
    ],
)
def test_rows_are_found_by_what_they_are_or_it_is_said(
    arguments: dict[str, Any], samples: int | None, expected: str | None
) -> None:
    given = {"hidden_states": torch.zeros(4, 7, 6), "timestep": torch.zeros(4), **arguments}
    if expected is not None:
        with pytest.raises(RowsError, match=expected):
            rows_of(given, samples)
    else:
        rows = rows_of(given, samples)
        assert rows is not None
        assert (rows.count, rows.samples, rows.listed) == (4, 2, False)


def test_a_samples_own_call_has_its_rows_and_all_that_has_none() -> None:
    latents, positions = torch.arange(6.0)[:, None, None].expand(6, 7, 6), torch.zeros(7, 3)
    residuals, shapes = [torch.arange(6.0)], [[(1, 4, 4)]] * 6
    given = {"x": latents, "img_ids": positions, "residuals": residuals, "shapes": shapes, "scale": (1, 2)}
    rows = rows_of(given, 3)
    assert rows is not None
    sample = rows.of(1, given)
    assert sample["x"][:, 0, 0].tolist() == [1, 4]
    assert sample["img_ids"] is positions
    assert sample["residuals"][0].tolist() == [1, 4]
    assert sample["shapes"] == [[(1, 4, 4)]] * 2
    assert sample["scale"] == (1, 2)
    outputs = [(rows.of(sample, latents), None) for sample in range(3)]
    whole, nothing = rows.together(outputs)
    assert torch.equal(whole, latents)
    assert nothing is None
    with pytest.raises(RowsError, match="different structure"):
        rows.together([(1,), (1, 2), (1,)])


def test_lists_of_rows_come_apart_and_together() -> None:
    given = {"x": [torch.full((2, 3), float(row)) for row in range(4)], "captions": [f"{row}" for row in range(4)]}
    rows = rows_of(given, 2)
    assert rows is not None
    assert rows.of(1, given)["captions"] == ["1", "3"]
    assert [float(x.mean()) for x in rows.together([[*rows.of(s, given)["x"]] for s in range(2)])] == [0, 1, 2, 3]


def difference_by_samples(name: str) -> tuple[float, str | None] | None:
    """How far a pipeline's samples, each computed by itself, are from those of one call, and why they are not."""
    try:
        called = OfPipeline(build(name), others=())
        expected = called.call(batch=3)
    except Exception:  # no tiny pipeline, or one that makes a single sample
        return None
    if not expected.isfinite().all():
        return None
    cache = goc.enable_cache(called.pipe, "teacache", threshold=0.0)
    return difference(called.call(batch=3), expected), cache.summary().together


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates what its own pipelines use
@pytest.mark.parametrize("name", SPECIAL)
def test_rows_are_those_of_the_samples(name: str) -> None:
    difference, together = difference_by_samples(name) or (None, None)
    assert difference is not None
    assert difference < 1e-5
    assert together is None


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_rows_are_those_of_the_samples_in_every_pipeline() -> None:
    names = sorted(set(all_pipelines()) - set(TOO_LARGE))
    results = {name: value for name in names if (value := difference_by_samples(name)) is not None}
    assert {name: value for name, value in results.items() if value[0] > 1e-5} == {}
    alone = [name for name, (_, why) in results.items() if why is None]
    assert len(alone) > 100
