"""Transformers of images whose latents are tokens, [batch, tokens, channels]: Flux and its kin."""

from typing import Any

import torch
from compat.tiny import BLOCKS, Arguments, Ask, tiny

TWO_LISTS: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": BLOCKS, "num_single_layers": BLOCKS,
    "in_channels": 16, "joint_attention_dim": 12, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip


def positions(ask: Ask) -> Arguments:
    return {"img_ids": ask.grid(), "txt_ids": ask.text_positions()}


def two_lists_residuals(ask: Ask) -> Arguments:
    return {
        "controlnet_block_samples": [ask.packed(32) for _ in range(BLOCKS)],
        "controlnet_single_block_samples": [ask.packed(32) for _ in range(BLOCKS)],
    }


def flux(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.packed(16), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "pooled_projections": ask.vector(10), **positions(ask),
    }  # fmt: skip


def without_vector(ask: Ask) -> Arguments:
    arguments = flux(ask)
    del arguments["pooled_projections"]
    return arguments


tiny("FluxTransformer2DModel", "Flux", **TWO_LISTS, pooled_projection_dim=10, residuals=two_lists_residuals)(flux)
tiny("BriaTransformer2DModel", "Bria", **TWO_LISTS, residuals=two_lists_residuals)(
    lambda ask: without_vector(ask) | {"timestep": ask.step}
)
tiny("LongCatImageTransformer2DModel", "LongCat", **TWO_LISTS, pooled_projection_dim=10)(without_vector)
tiny("OvisImageTransformer2DModel", "Ovis", **TWO_LISTS, out_channels=16)(without_vector)
tiny(
    "ChromaTransformer2DModel", "Chroma", **TWO_LISTS, approximator_num_channels=16, approximator_hidden_dim=8,
    approximator_layers=1, residuals=two_lists_residuals,
)(without_vector)  # fmt: skip


@tiny("BriaFiboTransformer2DModel", "Bria", **TWO_LISTS, text_encoder_dim=6)
def bria_fibo(ask: Ask) -> Arguments:
    return without_vector(ask) | {
        "timestep": ask.step,
        "text_encoder_layers": [ask.text(6) for _ in range(2 * BLOCKS)],
        "joint_attention_kwargs": {},
    }


@tiny(
    "Flux2Transformer2DModel", "Flux2", **{**TWO_LISTS, "axes_dims_rope": (4, 4, 4, 4)}, timestep_guidance_channels=16,
)  # fmt: skip
def flux2(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.packed(16), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "guidance": torch.full((ask.batch,), 4.0), "img_ids": ask.grid(4), "txt_ids": ask.text_positions(4),
    }  # fmt: skip


@tiny(
    "Flux3Transformer2DModel", "Flux2", **{**TWO_LISTS, "axes_dims_rope": (4, 4, 4, 4)}, cond_in_channels=16,
    timestep_channels=16,
)  # fmt: skip
def flux3(ask: Ask) -> Arguments:
    arguments = flux2(ask)
    del arguments["guidance"]
    return arguments


def qwen_residuals(ask: Ask) -> Arguments:
    return {"controlnet_block_samples": [ask.packed(32) for _ in range(BLOCKS)]}


@tiny(
    "QwenImageTransformer2DModel", "Qwen-Image", in_channels=16, out_channels=4, num_layers=BLOCKS,
    attention_head_dim=16, num_attention_heads=2, joint_attention_dim=12, axes_dims_rope=(4, 6, 6),
    residuals=qwen_residuals,
)  # fmt: skip
def qwen_image(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.packed(16), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "encoder_hidden_states_mask": ask.mask(), "img_shapes": [[(1, ask.size // 2, ask.size // 2)]] * ask.batch,
    }  # fmt: skip


@tiny(
    "NucleusMoEImageTransformer2DModel", "Nucleus", in_channels=16, out_channels=4, num_layers=BLOCKS + 3,
    attention_head_dim=16, num_attention_heads=2, joint_attention_dim=12, axes_dims_rope=(4, 6, 6), num_experts=2,
    moe_intermediate_dim=16, capacity_factors=[1.0] * (BLOCKS + 3),
)  # fmt: skip
def nucleus(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.packed(16), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "encoder_hidden_states_mask": ask.mask(), "img_shapes": [(1, ask.size // 2, ask.size // 2)] * ask.batch,
    }  # fmt: skip


@tiny(
    "HunyuanImageTransformer2DModel", "HunyuanImage", in_channels=4, out_channels=4, num_attention_heads=2,
    attention_head_dim=16, num_layers=BLOCKS, num_single_layers=BLOCKS, num_refiner_layers=1, text_embed_dim=12,
    rope_axes_dim=(8, 8),
)  # fmt: skip
def hunyuan_image(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.image(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "encoder_attention_mask": ask.mask(),
    }  # fmt: skip
