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


def one_list_residuals(ask: Ask) -> Arguments:
    return {"controlnet_block_samples": [ask.packed(32) for _ in range(BLOCKS)]}


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
tiny("BriaTransformer2DModel", "Bria", **TWO_LISTS, residuals=one_list_residuals)(
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


@tiny(
    "QwenImageTransformer2DModel", "Qwen-Image", in_channels=16, out_channels=4, num_layers=BLOCKS,
    attention_head_dim=16, num_attention_heads=2, joint_attention_dim=12, axes_dims_rope=(4, 6, 6),
    residuals=one_list_residuals,
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
    return ask.masked_text(ask.image(4))


@tiny(
    "QwenImage21Transformer2DModel", "Qwen-Image", in_channels=16, out_channels=16, num_layers=BLOCKS,
    attention_head_dim=16, num_attention_heads=2, context_in_dim=12, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
def qwen_image21(ask: Ask) -> Arguments:
    slots = torch.arange(ask.tokens + (ask.size // 4) ** 2) >= ask.tokens
    return {
        "hidden_states": ask.packed(16), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "img_shapes": [[(1, ask.size // 2, ask.size // 2)]] * ask.batch, "img_mask": slots.repeat(ask.batch, 1),
    }  # fmt: skip


@tiny(
    "Krea2Transformer2DModel", "Krea", in_channels=16, num_layers=BLOCKS, attention_head_dim=16, num_attention_heads=2,
    num_key_value_heads=1, intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=2,
    text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=16, num_layerwise_text_blocks=1,
    num_refiner_text_blocks=1, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
def krea2(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.packed(16), "timestep": ask.time,
        "encoder_hidden_states": ask.noise(ask.batch, ask.tokens, 2, 16),
        "position_ids": torch.cat([ask.text_positions(), ask.grid()]),
    }  # fmt: skip


@tiny(
    "Ideogram4Transformer2DModel", "Ideogram", in_channels=8, num_layers=BLOCKS, attention_head_dim=8,
    num_attention_heads=2, intermediate_size=32, adaln_dim=8, llm_features_dim=12, mrope_section=(2, 1, 1),
)  # fmt: skip
def ideogram4(ask: Ask) -> Arguments:
    from diffusers.models.transformers import transformer_ideogram4 as its

    grid = ask.grid()
    length = ask.tokens + len(grid)
    is_text = torch.arange(length) < ask.tokens
    roles = torch.where(is_text, its.LLM_TOKEN_INDICATOR, its.OUTPUT_IMAGE_INDICATOR)
    return {
        "hidden_states": ask.noise(ask.batch, length, 8), "timestep": ask.time,
        "encoder_hidden_states": ask.noise(ask.batch, length, 12),
        "position_ids": torch.cat([ask.text_positions(), grid]).repeat(ask.batch, 1, 1),
        "segment_ids": torch.zeros(ask.batch, length, dtype=torch.long), "indicator": roles.repeat(ask.batch, 1),
    }  # fmt: skip
