"""Transformers of diffusers that caches are timed in: DiT, FLUX and Wan, small ones and of the published widths."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from goc.check.peers import BLOCK
from goc.cli.random_weights import randomize

# after goc, which lets torchvision, which it imports, be imported
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, WanTransformer3DModel  # isort: skip

SINGLE_BLOCK = r"single_transformer_blocks\.\d+"
WAN_BLOCK = r"blocks\.\d+"


@dataclass(frozen=True)
class Shape:
    """A transformer that everyone works on.

    make: builds it. call: from it, the input and a timestep, its output. noise: shape of a sample. tokens: numbers of
    tokens that its features have. first: its list of blocks whose first one diffusers' FirstBlockCache compares.
    branches: patterns of the modules that diffusers' TaylorSeer predicts, and of those that it leaves out. last: the
    layer whose output "lite" predicts in place of all blocks, and the blocks' patterns.
    """

    name: str
    make: Callable[[], Any]
    call: Callable[[Any, Tensor, Tensor], Tensor]
    noise: tuple[int, ...]
    tokens: tuple[int, ...]
    first: str
    branches: tuple[list[str], list[str] | None]
    last: tuple[list[str], list[str]]

    def random(self, device: torch.device, dtype: torch.dtype) -> Any:
        """One with random weights, drawn on the device; what it holds beside them keeps its format."""
        with device:
            model = self.make()
        model = model.to(device).eval().requires_grad_(False)
        randomize(model, seed=0)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        return model


def dit(name: str, heads: int, head: int, blocks: int, side: int) -> Shape:
    """DiT on latents of `side` pixels, in patches of 2."""

    def make() -> Any:
        return DiTTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=head, in_channels=4, out_channels=8, num_layers=blocks,
            sample_size=side, patch_size=2, num_embeds_ada_norm=1000, norm_eps=1e-6,
        )  # fmt: skip

    def call(model: Any, x: Tensor, t: Tensor) -> Tensor:
        labels = torch.arange(len(x), device=x.device)
        return model(x, timestep=t.expand(len(x)), class_labels=labels, return_dict=False)[0][:, :4]

    return Shape(
        name, make, call, noise=(4, side, side), tokens=((side // 2) ** 2,), first="transformer_blocks",
        branches=([rf"{BLOCK}\.(attn1|ff)"], None), last=(["proj_out_2"], [BLOCK]),
    )  # fmt: skip


def flux(
    name: str, heads: int, axes: tuple[int, int, int], blocks: tuple[int, int], side: int, text: tuple[int, int]
) -> Shape:
    """FLUX on side x side image tokens. axes: of the rotary embedding, which add up to a head's width.

    blocks: double and single ones. text: tokens, and their width.
    """
    text_tokens, text_width = text

    def make() -> Any:
        return FluxTransformer2DModel(
            in_channels=64, num_layers=blocks[0], num_single_layers=blocks[1], attention_head_dim=sum(axes),
            num_attention_heads=heads, joint_attention_dim=text_width, pooled_projection_dim=768, axes_dims_rope=axes,
        )  # fmt: skip

    def call(model: Any, x: Tensor, t: Tensor) -> Tensor:
        places = torch.cartesian_prod(torch.arange(1), torch.arange(side), torch.arange(side)).to(x)
        return model(
            hidden_states=x,
            timestep=t.expand(len(x)) / 1000,
            encoder_hidden_states=x.new_ones(len(x), text_tokens, text_width),
            pooled_projections=x.new_ones(len(x), 768),
            img_ids=places,
            txt_ids=x.new_zeros(text_tokens, 3),
            return_dict=False,
        )[0]

    return Shape(
        name, make, call, noise=(side**2, 64), tokens=(side**2, text_tokens, side**2 + text_tokens),
        first="transformer_blocks",
        branches=([rf"{BLOCK}\.(attn|ff|ff_context)", rf"{SINGLE_BLOCK}\.proj_out"],
                  [rf"{SINGLE_BLOCK}\.(attn|proj_mlp)"]),
        last=(["proj_out"], [BLOCK, SINGLE_BLOCK]),
    )  # fmt: skip


def wan(
    name: str, heads: int, head: int, feed_forward: int, blocks: int, latents: tuple[int, int, int],
    text: tuple[int, int],
) -> Shape:  # fmt: skip
    """Wan on latents [frames, height, width], in patches of 1 x 2 x 2. text: tokens, and their width."""

    def make() -> Any:
        return WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=head, ffn_dim=feed_forward, num_layers=blocks,
            text_dim=text[1],
        )  # fmt: skip

    def call(model: Any, x: Tensor, t: Tensor) -> Tensor:
        states = x.new_ones(len(x), *text)
        return model(x, timestep=t.expand(len(x)), encoder_hidden_states=states, return_dict=False)[0]

    return Shape(
        name, make, call, noise=(16, *latents), tokens=(math.prod(latents) // 4,), first="blocks",
        branches=([rf"{WAN_BLOCK}\.(attn1|attn2|ffn)"], None), last=(["proj_out"], [WAN_BLOCK]),
    )  # fmt: skip


SMALL = (  # of scripts/benchmark.py pipelines: 256 channels, 256 image tokens
    dit("dit", 4, 64, 4, 32),
    flux("flux", 4, (16, 24, 24), (2, 3), 16, (64, 64)),
)
FULL = (  # four blocks each: FLUX.1 on 1024 x 1024 pixels, and Wan 2.1 14B on 17 frames of 832 x 480
    flux("FLUX, width 3072", 24, (16, 56, 56), (2, 2), 64, (512, 4096)),
    wan("Wan, width 5120", 40, 128, 13824, 4, (5, 60, 104), (512, 4096)),
)
TINY = (
    flux("FLUX, width 32", 2, (4, 6, 6), (1, 1), 4, (4, 8)),
    wan("Wan, width 24", 2, 12, 32, 2, (2, 4, 4), (4, 8)),
)
