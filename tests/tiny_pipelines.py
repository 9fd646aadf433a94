"""Tiny random pipelines of diffusers, built from configs, and calls of them; nothing is downloaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor, nn

import goc

STEPS = 6
BLOCKS = 3


def randomized(module: nn.Module) -> Any:
    """Random weights with which every block and branch changes the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=BLOCKS, sample_size=8,
        num_embeds_ada_norm=1000, norm_eps=1e-6,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    scheduler = DDIMScheduler(clip_sample=False)
    return DiTPipeline(transformer=randomized(transformer), vae=randomized(vae), scheduler=scheduler)


def pixart() -> PixArtSigmaPipeline:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=BLOCKS, sample_size=8,
        cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip
    return PixArtSigmaPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=randomized(transformer),
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


def sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=BLOCKS, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10,
        pos_embed_max_size=16,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=randomized(transformer), scheduler=FlowMatchEulerDiscreteScheduler(), vae=None, text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def flux() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=BLOCKS - 1, num_single_layers=BLOCKS, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return FluxPipeline(
        transformer=randomized(transformer), scheduler=FlowMatchEulerDiscreteScheduler(), vae=None, text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip


def wan() -> WanPipeline:
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
        ffn_dim=32, num_layers=BLOCKS, rope_max_seq_len=32,
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=randomized(transformer), scheduler=scheduler
    )


def wan22(second_only: bool = False) -> WanPipeline:
    """With two transformers that take turns, as Wan 2.2, or with the second alone."""
    first, second = wan(), wan()
    second.transformer.blocks[0].ffn.net[2].weight.mul_(1.5)
    return WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=None if second_only else first.transformer,
        transformer_2=second.transformer, scheduler=first.scheduler, boundary_ratio=None if second_only else 0.8,
    )  # fmt: skip


@contextmanager
def caching(pipe: Any, *method: Any, **settings: Any) -> Iterator[Any]:
    """Inside, a pipeline has a cache."""
    cache = goc.enable_cache(pipe, *method, **settings)
    try:
        yield cache
    finally:
        goc.disable_cache(pipe)


MAKERS: dict[str, Callable[[], Any]] = {"dit": dit, "pixart": pixart, "sd3": sd3, "flux": flux, "wan": wan}


def text(tokens: int, channels: int = 12, seed: int = 0, batch: int = 1) -> Tensor:
    """Embeddings of prompts, [batch, tokens, channels]."""
    return torch.randn(batch, tokens, channels, generator=torch.Generator().manual_seed(seed + tokens))


def call(pipe: Any, tokens: int = 5, guidance: float = 3.0, steps: int = STEPS, batch: int = 1, **more: Any) -> Tensor:
    """What a pipeline gives for prompts of so many tokens: the last latents, of DiT decoded."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    common = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generator, "return_dict": False}
    return pipe(**prompt(pipe, tokens, guidance, batch), **common, **more)[0]


def prompt(pipe: Any, tokens: int = 5, guidance: float = 3.0, batch: int = 1) -> dict[str, Any]:
    """Arguments of a pipeline's call that stand for prompts of so many tokens, and the size of what is made."""
    name = type(pipe).__name__
    if name == "DiTPipeline":
        return {"class_labels": [tokens] * batch, "output_type": "pt"}
    asked: dict[str, Any] = {"output_type": "latent", "prompt_embeds": text(tokens, batch=batch)}
    asked |= {"height": 32, "width": 32, "num_frames": 5} if name == "WanPipeline" else {"height": 64, "width": 64}
    if name in ("FluxPipeline", "StableDiffusion3Pipeline"):
        asked["pooled_prompt_embeds"] = text(1, 10, batch=batch)[:, 0]
    if name == "PixArtSigmaPipeline":
        asked["prompt_attention_mask"] = torch.ones(batch, tokens, dtype=torch.long)
        asked |= {"negative_prompt": None, "use_resolution_binning": False}
    if guidance > 1 or name == "StableDiffusion3Pipeline":
        asked |= {f"negative_{key}": 0.5 * value for key, value in asked.items() if key.endswith("_embeds")}
        if name == "PixArtSigmaPipeline":
            asked["negative_prompt_attention_mask"] = asked["prompt_attention_mask"]
        if name == "FluxPipeline":
            asked["true_cfg_scale"] = guidance  # which calls the transformer twice in a step
    return asked
