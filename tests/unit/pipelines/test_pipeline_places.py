"""What stands around a cache: residuals between blocks, modules called twice, other shapes, two transformers."""

import copy
import pickle
from typing import Any

import pytest
import torch
from closeness import assert_near, relative_difference
from diffusers import (
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.callbacks import SD3CFGCutoffCallback
from tiny_pipelines import STEPS, caching, call, flux, randomized, sd3, text, wan22
from torch import Tensor, nn

import goc
from goc.pipelines.session import PipelineError

SITES = ["branch", "stack"]


def without_time(transformer: nn.Module) -> None:
    """Have a transformer give the same at every timestep."""
    for name, module in transformer.named_modules():
        if name.endswith("timestep_embedder.linear_2") and isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)


class SameInput:
    """A loop whose steps all give a transformer the same: what is reused is then what would be computed."""

    def __init__(self, pipe: Any, arguments: dict[str, Any]) -> None:
        self.transformer, self.scheduler, self.arguments = pipe.transformer, pipe.scheduler, arguments
        without_time(pipe.transformer)
        self.scheduler.set_timesteps(4)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        for t in self.scheduler.timesteps:
            output = self.transformer(timestep=t[None], **self.arguments)[0]
        return output


def flux_loop(residuals: bool) -> SameInput:
    arguments: dict[str, Any] = {
        "hidden_states": text(16, 16), "encoder_hidden_states": text(5), "pooled_projections": text(1, 10)[:, 0],
        "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3), "return_dict": False,
    }  # fmt: skip
    if residuals:
        arguments["controlnet_block_samples"] = [text(16, 32, seed=1), text(16, 32, seed=2)]
        arguments["controlnet_single_block_samples"] = [text(16, 32, seed=3)] * 3
    return SameInput(flux(), arguments)


def sd3_loop(residuals: bool) -> SameInput:
    arguments: dict[str, Any] = {
        "hidden_states": text(4, 64).reshape(1, 4, 8, 8), "encoder_hidden_states": text(5),
        "pooled_projections": text(1, 10)[:, 0], "return_dict": False,
    }  # fmt: skip
    if residuals:
        arguments["block_controlnet_hidden_states"] = [text(16, 16, seed=i) for i in range(3)]
    return SameInput(sd3(), arguments)


@pytest.mark.parametrize("residuals", [False, True])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("loop", [flux_loop, sd3_loop])
def test_what_is_added_between_blocks_is_added_once(loop: Any, site: str, residuals: bool) -> None:
    pipe = loop(residuals)
    expected = pipe()
    cache = goc.enable_cache(pipe, "reuse", 0.5, site=site)
    assert_near(pipe(), expected)
    assert cache.summary().calls == {"full": 2, "mixed": 0, "cached": 2}
    if residuals:
        goc.disable_cache(pipe)
        assert relative_difference(expected, loop(False)()) > 1e-2


def cogview4() -> CogView4Pipeline:
    transformer = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        text_embed_dim=12, time_embed_dim=8, condition_dim=4, sample_size=8, rope_axes_dim=(16, 16),
    )  # fmt: skip
    return CogView4Pipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=randomized(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def cogview4_call(pipe: Any, tokens: int = 5) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    embeds = {"prompt_embeds": text(tokens), "negative_prompt_embeds": 0.5 * text(tokens)}
    return pipe(height=64, width=64, num_inference_steps=STEPS, generator=generator, output_type="latent",
                return_dict=False, **embeds)[0]  # fmt: skip


@pytest.mark.parametrize("method", ["reuse", "goc", "taylorseer"])
def test_a_module_that_is_called_for_the_image_and_for_the_text_has_features_for_both(method: str) -> None:
    pipe = cogview4()
    expected = cogview4_call(pipe)
    calls: list[int] = []
    pipe.transformer.transformer_blocks[1].ff.net[0].register_forward_hook(lambda *_: calls.append(1))
    cogview4_call(pipe)
    computed = len(calls)
    goc.enable_cache(pipe, method, 0.5)
    samples = cogview4_call(pipe)
    assert len(calls) - computed < computed
    assert relative_difference(samples, expected) > 1e-4
    assert samples.isfinite().all()
    goc.disable_cache(pipe)
    goc.enable_cache(pipe, method, 0.0)
    assert torch.equal(cogview4_call(pipe), expected)


@pytest.mark.parametrize("site", SITES)
def test_guidance_that_ends_part_way_starts_anew(site: str) -> None:
    """Once the batch is the conditional half, all is computed before anything is reused."""

    pipe, cut = sd3(), SD3CFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=2)
    expected = call(pipe, callback_on_step_end=cut)
    rows: list[int] = []
    pipe.transformer.transformer_blocks[-1].attn.to_q.register_forward_hook(
        lambda _, args, __: rows.append(len(args[0]))
    )
    goc.enable_cache(pipe, "reuse", 0.5, site=site)
    samples = call(pipe, callback_on_step_end=cut)
    assert samples.shape == expected.shape
    assert rows == [2, 2, 1, 1]  # steps 0 and 2 of six; 3, the first of the new shape; 4
    assert relative_difference(samples, expected) > 1e-3


def test_an_error_in_a_call_whose_operations_are_counted_arrives() -> None:
    pipe = sd3()
    goc.enable_cache(pipe, "reuse", 0.5)
    failures = iter([RuntimeError("once")])

    def fail(*_: Any) -> None:
        for error in failures:
            raise error

    pipe.transformer.norm_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="once"):
        call(pipe)


def test_a_call_whose_operations_cannot_be_counted_is_made_all_the_same() -> None:
    def uncountable(*_: Any) -> None:
        """As flex attention: fails in torch's dispatch, where operations are counted."""
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            torch.mm(torch.ones(2, 3), torch.ones(2, 3))

    pipe = sd3()
    pipe.transformer.norm_out.register_forward_pre_hook(uncountable)
    expected = call(pipe)
    with caching(pipe, "none", None):
        assert torch.equal(call(pipe), expected)
    cache = goc.enable_cache(pipe, "reuse", 0.5)
    call(pipe)
    assert cache.summary().macs_saved is None
    assert cache.summary().cached_share == 0.5


@pytest.mark.parametrize("site", SITES)
def test_two_transformers_that_take_turns_have_features_of_their_own(site: str) -> None:
    pipe = wan22()
    expected = call(pipe)
    counts = [0, 0]

    def count(index: int) -> Any:
        return lambda *_: counts.__setitem__(index, counts[index] + 1)

    for index, transformer in enumerate((pipe.transformer, pipe.transformer_2)):
        transformer.blocks[-1].ffn.net[0].register_forward_pre_hook(count(index))
    call(pipe)
    uncached, counts[:] = list(counts), [0, 0]
    with caching(pipe, "reuse", 0.5, site=site) as cache:
        samples = call(pipe)
        assert all(0 < now < before for now, before in zip(counts, uncached, strict=True))
        assert relative_difference(samples, expected) > 1e-3
        assert cache.tensors_held() == 0
    assert torch.equal(call(pipe), expected)
    with pytest.raises(PipelineError, match="two transformers"):
        goc.calibrate(pipe, ["a"], steps=4)


def test_a_pipeline_with_only_its_second_transformer_is_cached() -> None:
    pipe = wan22(second_only=True)
    cache = goc.enable_cache(pipe, "reuse", 0.5)
    assert [cached.name for cached in cache.transformers] == ["transformer_2"]


def test_a_transformer_that_was_exchanged_is_refused_before_the_first_step() -> None:
    pipe, other = sd3(), sd3()
    goc.enable_cache(pipe, "reuse")
    had, pipe.transformer = pipe.transformer, other.transformer
    with pytest.raises(PipelineError, match=r"pipe\.transformer is not the transformer that has the cache"):
        call(pipe)
    goc.disable_cache(pipe)
    goc.enable_cache(pipe, "reuse")
    assert not {"forward", "cache_context"} & set(vars(had))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_copy_has_no_cache_and_can_have_one(how: str, whole: bool) -> None:
    pipe = sd3()
    expected = call(pipe)
    goc.enable_cache(pipe, "reuse")
    cached = call(pipe)
    source = pipe if whole else pipe.transformer
    made = copy.deepcopy(source) if how == "deepcopy" else pickle.loads(pickle.dumps(source))
    if not whole:
        other = sd3()
        other.transformer, made = made, other
    assert torch.equal(call(made), expected)
    with torch.no_grad():
        made.transformer.proj_out.weight.zero_()
    assert torch.equal(call(pipe), cached)
    goc.enable_cache(made, "reuse")
    goc.disable_cache(made)


def test_a_cache_of_diffusers_and_one_of_ours_do_not_work_at_once() -> None:
    pipe = flux()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(PipelineError, match=r"has a cache of diffusers; pipe\.transformer\.disable_cache\(\) first"):
        goc.enable_cache(pipe)
    pipe.transformer.disable_cache()
    goc.enable_cache(pipe)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(PipelineError, match="has a cache of diffusers"):
        call(pipe)


def test_blocks_that_run_in_every_step_are_named() -> None:
    pipe = sd3()
    pipe.transformer.refiner = nn.ModuleDict({"layers": copy.deepcopy(pipe.transformer.transformer_blocks)})
    cache = goc.enable_cache(pipe, "reuse")
    call(pipe)
    assert "blocks computed in every step: refiner.layers" in str(cache.summary())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("site", SITES)
def test_what_is_changed_in_place_is_copied(site: str, mode: Any) -> None:
    """As a ControlNet of Chroma adds its residuals to the image's tokens, and as gates may be multiplied in."""
    loop = sd3_loop(residuals=False)

    def add_in_place(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        output[1].add_(0.5)

    def double_in_place(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        output[0].mul_(2.0)

    blocks = loop.transformer.transformer_blocks
    blocks[0].register_forward_hook(add_in_place)
    blocks[1].attn.register_forward_hook(double_in_place)
    with mode():
        expected = loop()
        cache = goc.enable_cache(loop, "fora", interval=4, cache_ratio=None, site=site)
        assert_near(loop(), expected)
    assert cache.transformers[0].copies
    assert cache.summary().calls == {"full": 2, "mixed": 0, "cached": 2}
    macs = cache.summary().macs_saved
    assert macs is not None
    assert macs > 0.2
