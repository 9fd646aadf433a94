"""Tokens of a pipeline's cached feed-forwards, by brute force: which, what becomes of them, what it costs, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import ROUNDING, assert_near, relative_difference
from compat.loop import Loop
from compat.tiny import Ask
from compat.zoo import ZOO
from diffusers.callbacks import SD3CFGCutoffCallback
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import AttnProcessor
from tiny_pipelines import MAKERS, STEPS, caching, call, flux, pixart, prompt, sd3, text
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import goc
from goc.caching.cache import ScheduledCache
from goc.caching.predictor import Reuse
from goc.caching.schedule import fora
from goc.caching.selection import Clusters, ToCa, favour, shares
from goc.pipelines.calibrate import calibrate
from goc.pipelines.enable import attach
from goc.pipelines.hooks.attention import received_in
from goc.pipelines.session import Run
from goc.pipelines.structure import StructureError, layout_of
from goc.pipelines.token_wise import not_token_wise
from goc.pipelines.tokens import grid_of
from goc.system.errors import GocError

INTERVAL = 3
FORA: dict[str, Any] = {"method": "fora", "interval": INTERVAL, "cache_ratio": None}
SHARE = {"ratio": 0.12, "by_block": -0.2, "by_step": 1.0}
ALL = {"ratio": 1.0, "by_block": 0.0, "by_step": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "toca": {**FORA, "method": "toca", **SHARE},
    "random": {**FORA, "selection": "random", **SHARE},
    "norm": {**FORA, "selection": "norm", **SHARE},
    "clusca": {**FORA, "method": "clusca", "clusters": 3, "propagation": 0.1, "order": 1},
}


def selected(pipe: Any, way: str, **more: Any) -> tuple[Tensor, Any]:
    """What a pipeline gives with a way's cache, and its summary."""
    with caching(pipe, **WAYS[way]) as cache:
        return call(pipe, **more), cache.summary()


class Watched:
    """Every call of the feed-forwards of a transformer, by its module: what was given, all computed, and what came."""

    def __init__(self, transformer: nn.Module) -> None:
        self.calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, module in transformer.named_modules():
            if isinstance(module, FeedForward):
                module.register_forward_hook(
                    lambda module, args, output, name=name: self.calls.setdefault(name, []).append(
                        (FeedForward.forward(module, args[0]).clone(), output.clone())
                    )
                )


@pytest.mark.parametrize("name", ["pixart", "flux"])
def test_the_longest_held_tokens_are_computed_and_written_into_what_is_held(name: str) -> None:
    pipe = MAKERS[name]()
    watched = Watched(pipe.transformer)
    guidance = 3.0 if name == "pixart" else 1.0  # there both halves are in one call, and here there is one
    selected(pipe, "norm", guidance=guidance)
    layout = layout_of(pipe.transformer)
    share = shares(*SHARE.values(), STEPS, layout.depth)
    mask = fora(STEPS, layout.depth, INTERVAL)
    computed = 0
    assert len(watched.calls) == (3 if name == "pixart" else 4)  # FLUX's two double blocks, image and text
    for module, calls in watched.calls.items():
        block = int(module.split(".")[1])
        held = torch.empty(0)
        for step, (full, output) in enumerate(calls):
            if mask[step, block, 1]:
                count = int(share[step, block] * full.shape[1])
                for row in range(len(full)):
                    tokens = held[row].norm(dim=-1).argsort(descending=True)[:count]
                    held[row, tokens] = full[row, tokens]
                    computed += count
                assert relative_difference(full, held) > 1e-3
                assert_near(output, held)
            else:
                held = full
                assert torch.equal(output, full)
    assert computed > 20


def attention_alone(run: Run) -> ScheduledCache:
    """Reuses all but the feed-forwards whose tokens can be computed alone."""
    mask = run.layout.spread(fora(run.steps, run.layout.depth, 2))
    mask[:, [place for place, why in run.layout.feed_forwards.items() if not why]] = False
    return ScheduledCache(mask, Reuse(mask))


def difference_with_all_tokens(name: str) -> float | None:
    """Of a transformer whose tokens are all selected from one that computes feed-forwards; None: it is refused."""
    loop = Loop(ZOO[name])
    ask = Ask(batch=2)
    try:
        cache = goc.enable_cache(loop, **FORA | {"interval": 2}, selection="random", **ALL)
    except GocError:
        return None
    samples = loop(ask, 4)
    assert cache.summary().tokens_computed == 1
    goc.disable_cache(loop)
    attach(loop, attention_alone)
    return relative_difference(samples, loop(ask, 4))


# Flux3's lists of blocks have other tokens each; CogView4 calls a module for the image, and then for the text
@pytest.mark.filterwarnings("ignore")  # diffusers deprecates what its own pipelines use
@pytest.mark.parametrize("name", ["DiT", "PixArt", "Flux", "Flux3", "CogView4"])
def test_with_all_tokens_a_cached_feed_forward_is_computed(name: str) -> None:
    name = f"{name}Transformer2DModel"
    if not ZOO[name].exists:
        pytest.skip(f"this diffusers has no {name}")
    difference = difference_with_all_tokens(name)
    assert difference is not None
    assert difference <= ROUNDING


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_in_every_transformer_all_tokens_are_computed_or_it_is_refused() -> None:
    names = [name for name, tiny in ZOO.items() if tiny.exists]
    differences = {name: value for name in names if (value := difference_with_all_tokens(name)) is not None}
    assert {name: value for name, value in differences.items() if value > ROUNDING} == {}
    assert len(differences) > 60


def test_without_a_selection_nothing_changes() -> None:
    pipe = pixart()
    with caching(pipe, **FORA):
        expected = call(pipe)
    cache = goc.enable_cache(pipe, **FORA, selection="none")
    assert torch.equal(call(pipe), expected)
    assert cache.summary().tokens_computed is None


@pytest.mark.parametrize(("name", "way"), [*(("pixart", way) for way in WAYS), ("flux", "clusca")])
def test_a_sample_is_the_same_in_any_batch(name: str, way: str) -> None:
    pipe = MAKERS[name]()
    pipe.set_progress_bar_config(disable=True)

    def made(rows: slice) -> Tensor:
        given = {key: x[rows] if isinstance(x, Tensor) else x for key, x in prompt(pipe, 5, 3.0, 2).items()}
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)[rows]]
        return pipe(**given, num_inference_steps=STEPS, generator=generators, return_dict=False)[0]

    goc.enable_cache(pipe, **WAYS[way])
    together = made(slice(0, 2))
    assert_near(made(slice(0, 1)), together[:1])
    assert_near(made(slice(1, 2)), together[1:])


@pytest.mark.parametrize(("name", "way"), [("pixart", "toca"), ("flux", "clusca")])
def test_operations_are_those_that_torch_counts(name: str, way: str) -> None:
    pipe = MAKERS[name]()
    cache = goc.enable_cache(pipe, **WAYS[way])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call(pipe)
    record, summary = cache.record, cache.summary()
    assert record.macs - record.saved_macs == pytest.approx(counter.get_total_flops() / 2, rel=1e-12)
    assert 0 < (summary.tokens_computed or 0) < 1


class Kernel:
    """torch's attention, whose queries and keys are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        original = F.scaled_dot_product_attention

        def noted(query: Tensor, key: Tensor, value: Tensor, *more: Any, **others: Any) -> Tensor:
            self.seen.append((query, key))
            return original(query, key, value, *more, **others)

        monkeypatch.setattr(F, "scaled_dot_product_attention", noted)

    def received(self, call: int) -> Tensor:
        """By the keys of a call, [N, keys]."""
        query, key = self.seen[call]
        scores = torch.einsum("nhqd,nhkd->nhqk", query, key) / query.shape[-1] ** 0.5
        return scores.softmax(dim=-1).mean(dim=1).sum(dim=1)


@pytest.mark.parametrize(("name", "text_first"), [("flux", True), ("sd3", False)])
@pytest.mark.parametrize("tokens", [5, 16])
def test_attention_is_seen_of_the_image_and_of_the_text(
    name: str, text_first: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = MAKERS[name]()
    attention = pipe.transformer.transformer_blocks[0].attn
    width = pipe.transformer.inner_dim
    given = {"hidden_states": text(16, width, 1, 2), "encoder_hidden_states": text(tokens, width, 2, 2)}
    expected = attention(**given)
    with torch.inference_mode():
        output, parts = received_in(attention, attention.forward, (), given, False)
    assert_near(output, expected)
    kernel = Kernel(monkeypatch)
    attention(**given)
    received = kernel.received(0)
    image, words = received.split([tokens, 16], dim=1)[::-1] if text_first else received.split([16, tokens], dim=1)
    assert_near(parts, [image, words])
    assert relative_difference(image, torch.ones_like(image)) > 1e-3


@pytest.mark.parametrize("tokens", [5, 16])
def test_the_image_and_the_text_have_scores_of_their_own(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: dict[tuple[int, int], set[int]] = {}
    choose = ToCa.choose

    def noted(self: ToCa, block: int, count: int, held: Tensor) -> Tensor:
        tokens = choose(self, block, count, held)
        order = len([key for key in chosen if key[0] == block])
        if self.step == 1 and order < 2:
            chosen[block, order] = set(tokens[0].tolist())
        return tokens

    monkeypatch.setattr(ToCa, "choose", noted)
    pipe = flux()
    quarter = {"ratio": 0.1, "by_block": 0.0, "by_step": 0.0, "bonus": 1.01}
    with caching(pipe, **FORA, selection="toca", **quarter):
        call(pipe, tokens=tokens, guidance=1.0)
    kernel = Kernel(monkeypatch)
    call(pipe, tokens=tokens, guidance=1.0, steps=STEPS)
    without = []
    for block in range(2):
        words, image = kernel.received(block)[0].split([tokens, 16])
        favoured = favour((image / image.norm())[None], 1.01, (4, 4))[0]
        assert chosen[block, 0] == set(favoured.topk(4).indices.tolist())
        assert chosen[block, 1] == set(words.topk(tokens // 4).indices.tolist())
        without.append(set(image.topk(4).indices.tolist()))
    assert without != [chosen[block, 0] for block in range(2)]


@pytest.mark.parametrize("tokens", [5, 16])
def test_clusters_are_of_what_comes_out_of_the_last_block(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[Tensor]] = {}
    outputs: list[tuple[Tensor, Tensor]] = []
    original = Clusters.finished

    def finished(self: Clusters, h: Tensor) -> None:
        seen.setdefault(id(self), []).append(h)
        original(self, h)

    monkeypatch.setattr(Clusters, "finished", finished)
    pipe = flux()
    last = pipe.transformer.single_transformer_blocks[-1]
    last.register_forward_hook(lambda _, __, output: outputs.append(output))
    selected(pipe, "clusca", tokens=tokens, guidance=1.0)
    image, words = seen.values()
    assert len(outputs) == STEPS
    for step, (of_text, of_image) in enumerate(outputs):  # as FLUX gives them
        assert torch.equal(image[step], of_image)
        assert torch.equal(words[step], of_text)


def test_patches_of_a_grid_are_favoured_in_each_frame() -> None:
    scores = torch.rand(2, 3 * 4 * 6, generator=torch.Generator().manual_seed(0))
    frames = favour(scores, 2.0, (4, 6)).unflatten(1, (3, 4, 6))
    for frame, plain in zip(frames.flatten(0, 1), scores.unflatten(1, (3, 4, 6)).flatten(0, 1), strict=True):
        for top in range(0, 4, 2):
            for left in range(0, 6, 2):
                patch, before = (x[top : top + 2, left : left + 2] for x in (frame, plain))
                assert torch.equal(patch, torch.where(before == before.max(), 2 * before, before))


def test_the_grid_is_that_of_latents_or_of_positions() -> None:
    assert grid_of(None, (2, 4, 8, 12), 24) == (4, 6)
    assert grid_of(None, (1, 16, 3, 8, 12), 3 * 24) == (4, 6)
    assert grid_of(None, (1, 4, 8, 12), 25) is None
    assert grid_of(None, (1, 24, 64), 24) is None
    ids = torch.tensor([[0, row, column] for row in range(4) for column in range(6)])
    assert grid_of(ids, (1, 24, 64), 24) == (4, 6)
    assert grid_of(torch.cat([ids, ids]), (1, 48, 64), 48) == (4, 6)  # of two pictures
    assert grid_of(ids, (1, 24, 64), 5) is None  # a text
    assert grid_of(torch.cat([ids, ids[:, :1]], dim=1), (1, 24, 64), 24) is None  # in another order, perhaps


class Convolved(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * x.roll(1, dims=1)


class Normed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / x.norm(dim=1, keepdim=True)


class Placed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.arange(x.shape[1])[:, None]


class Wants(nn.Linear):
    def forward(self, x: Tensor, height: int) -> Tensor:  # what is refused
        return super().forward(x)


def test_a_module_that_is_not_token_wise_says_why() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for kind in ("geglu", "gelu-approximate", "swiglu"):
            assert not_token_wise(FeedForward(8, activation_fn=kind).to(dtype)) == ""
        for mixing in (Convolved, Normed, Placed):
            assert not_token_wise(mixing(8, 8).to(dtype)) != ""
    assert not_token_wise(Wants(8, 8)) == "cannot be called with tokens alone: TypeError"
    assert not_token_wise(nn.Conv2d(4, 4, 3)) == "has no linear layer"


def test_what_is_cached_whole_is_said(caplog: pytest.LogCaptureFixture) -> None:
    _, summary = selected(flux(), "norm")
    whole = "FluxSingleTransformerBlock (attention and feed-forward are one)"
    assert summary.predicted_whole == (whole,)
    assert whole in str(summary)
    assert [record.message for record in caplog.records] == [
        f"selection=norm: cached whole, without any token: {whole}"
    ]
    pipe = pixart()
    pipe.transformer.transformer_blocks[1].ff = Convolved(16, 16)
    cache = goc.enable_cache(pipe, **WAYS["norm"])
    call(pipe)
    assert cache.summary().predicted_whole == ("Convolved (mixes its tokens, or knows their places)",)
    assert (cache.summary().tokens_computed or 0) > 0


def test_guidance_that_ends_part_way_starts_anew() -> None:
    for way in ("toca", "clusca"):
        cut = SD3CFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=2)
        samples, summary = selected(sd3(), way, steps=6, callback_on_step_end=cut)
        assert samples.isfinite().all()
        assert (summary.tokens_computed or 0) > 0


def test_a_plan_has_the_selection(tmp_path: Any) -> None:
    pipe = pixart()
    pipe.set_progress_bar_config(disable=True)
    expected, _ = selected(pipe, "norm")
    plan = calibrate(pipe, [prompt(pipe)], **WAYS["norm"], steps=STEPS, call={"guidance_scale": 3.0})
    plan.save(tmp_path / "plan.json")
    goc.enable_cache(pipe, plan=goc.load_plan(tmp_path / "plan.json"))
    assert torch.equal(call(pipe), expected)


def test_a_transformer_without_token_wise_feed_forwards_is_refused() -> None:
    pipe = flux()
    whole = (
        r"^FluxTransformer2DModel: selection must be none, .* token: FluxSingleTransformerBlock \(attention and feed"
    )
    with pytest.raises(StructureError, match=whole):
        goc.enable_cache(pipe, **WAYS["norm"], blocks=["single_transformer_blocks"])
    assert not hasattr(pipe, "_goc_cache")
    with pytest.raises(StructureError, match=r"^SanaTransformer2DModel: .* GLUMBConv \(has no linear layer\)$"):
        goc.enable_cache(Loop(ZOO["SanaTransformer2DModel"]), **WAYS["norm"])


def test_attention_that_is_not_seen_and_too_few_tokens_are_refused_in_the_first_step() -> None:
    pipe = pixart()
    for block in pipe.transformer.transformer_blocks:
        block.attn1.set_processor(AttnProcessor())  # which multiplies by itself
    with pytest.raises(StructureError, match=r"^selection=toca: looks at the attention of a feed-forward's 16 tokens"):
        selected(pipe, "toca")
    assert selected(pipe, "norm")[0].isfinite().all()
    goc.enable_cache(pipe, **{**WAYS["clusca"], "clusters": 17})
    with pytest.raises(GocError, match=r"^selection\.clusters=17: must be at most the model's 16 tokens"):
        call(pipe)
