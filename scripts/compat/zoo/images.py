"""Transformers of images whose latents are [batch, channels, height, width]."""

from typing import Any

import torch

from compat.tiny import BLOCKS, Arguments, Ask, tiny

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": BLOCKS}


@tiny("DiTTransformer2DModel", "DiT", **HEADS, in_channels=4, out_channels=8, sample_size=8, norm_eps=1e-6)
def dit(ask: Ask) -> Arguments:
    return {"hidden_states": ask.image(4), "timestep": ask.step, "class_labels": torch.full((ask.batch,), ask.tokens)}


@tiny(
    "PixArtTransformer2DModel", "PixArt", **HEADS, in_channels=4, out_channels=8, sample_size=8,
    cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
)  # fmt: skip
def pixart(ask: Ask) -> Arguments:
    return ask.masked_text(ask.image(4)) | {
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }  # fmt: skip


def sd3_residuals(ask: Ask) -> Arguments:
    return {"block_controlnet_hidden_states": [ask.packed(16) for _ in range(BLOCKS)]}


@tiny(
    "SD3Transformer2DModel", "SD3", **HEADS, in_channels=4, out_channels=4, sample_size=8, joint_attention_dim=12,
    caption_projection_dim=16, pooled_projection_dim=10, pos_embed_max_size=16, dual_attention_layers=(0,),
    residuals=sd3_residuals,
)  # fmt: skip
def sd3(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.image(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "pooled_projections": ask.vector(10),
    }  # fmt: skip


@tiny(
    "AuraFlowTransformer2DModel", "AuraFlow", num_attention_heads=2, attention_head_dim=8, sample_size=8,
    num_mmdit_layers=BLOCKS, num_single_dit_layers=BLOCKS, joint_attention_dim=12, caption_projection_dim=16,
    pos_embed_max_size=64,
)  # fmt: skip
def auraflow(ask: Ask) -> Arguments:
    return {"hidden_states": ask.image(4), "timestep": ask.time, "encoder_hidden_states": ask.text(12)}


def cogview(ask: Ask) -> Arguments:
    size = torch.tensor([[8.0 * ask.size] * 2] * ask.batch)
    return {
        "hidden_states": ask.image(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "original_size": size, "target_size": size, "crop_coords": torch.zeros(ask.batch, 2),
    }  # fmt: skip


COGVIEW: dict[str, Any] = {
    **HEADS, "in_channels": 4, "out_channels": 4, "text_embed_dim": 12, "time_embed_dim": 16, "condition_dim": 8,
    "sample_size": 8,
}  # fmt: skip
tiny("CogView3PlusTransformer2DModel", "CogView", **COGVIEW, pos_embed_max_size=16)(cogview)
tiny("CogView4Transformer2DModel", "CogView", **COGVIEW, pos_embed_max_size=16, rope_axes_dim=(16, 16))(cogview)


@tiny(
    "GlmImageTransformer2DModel", "CogView", **{k: v for k, v in COGVIEW.items() if k != "sample_size"},
    prior_vq_quantizer_codebook_size=16,
)  # fmt: skip
def glm_image(ask: Ask) -> Arguments:
    tokens = (ask.size // 2) ** 2
    arguments = cogview(ask)
    del arguments["original_size"]
    return arguments | {
        "prior_token_id": torch.arange(tokens).remainder(16).repeat(ask.batch, 1),
        "prior_token_drop": torch.zeros(ask.batch, tokens, dtype=torch.bool),
    }


def sana_residuals(ask: Ask) -> Arguments:
    return {"controlnet_block_samples": [ask.noise(ask.batch, ask.size**2, 16) for _ in range(BLOCKS - 1)]}


SANA: dict[str, Any] = {
    **HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
    "cross_attention_dim": 16, "caption_channels": 12, "sample_size": 8,
}  # fmt: skip


@tiny("SanaTransformer2DModel", "Sana", **SANA, residuals=sana_residuals)
def sana(ask: Ask) -> Arguments:
    return ask.masked_text(ask.image(4))


@tiny(
    "Lumina2Transformer2DModel", "Lumina", sample_size=8, in_channels=4, hidden_size=24, num_layers=BLOCKS,
    num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4),
    axes_lens=(32, 16, 16), cap_feat_dim=12,
)  # fmt: skip
def lumina2(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.image(4), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "encoder_attention_mask": ask.mask(torch.bool),
    }  # fmt: skip


@tiny(
    "LuminaNextDiT2DModel", "Lumina", sample_size=8, in_channels=4, hidden_size=16, num_layers=BLOCKS,
    num_attention_heads=2, num_kv_heads=2, multiple_of=8, cross_attention_dim=12,
)  # fmt: skip
def lumina_next(ask: Ask) -> Arguments:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    return {
        "hidden_states": ask.image(4), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "encoder_mask": ask.mask(torch.bool), "cross_attention_kwargs": {},
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(8, 64, 64),
    }  # fmt: skip


def hunyuan_dit_residuals(ask: Ask) -> Arguments:
    return {"controlnet_block_samples": [ask.packed(16) for _ in range(BLOCKS // 2)]}


@tiny(
    "HunyuanDiT2DModel", "HunyuanDiT", num_attention_heads=2, attention_head_dim=8, num_layers=2 * BLOCKS,
    in_channels=4, patch_size=2, sample_size=8, hidden_size=16, cross_attention_dim=12, cross_attention_dim_t5=16,
    pooled_projection_dim=8, text_len=5, text_len_t5=6, learn_sigma=True, residuals=hunyuan_dit_residuals,
)  # fmt: skip
def hunyuan_dit(ask: Ask) -> Arguments:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    side = ask.size // 2
    return {
        "hidden_states": ask.image(4), "timestep": ask.step,
        "encoder_hidden_states": ask.noise(ask.batch, 5, 12), "text_embedding_mask": torch.ones(ask.batch, 5),
        "encoder_hidden_states_t5": ask.noise(ask.batch, 6, 16), "text_embedding_mask_t5": torch.ones(ask.batch, 6),
        "image_meta_size": torch.tensor([[64.0, 64, 64, 64, 0, 0]] * ask.batch),
        "style": torch.zeros(ask.batch, dtype=torch.long),
        "image_rotary_emb": get_2d_rotary_pos_embed(
            8, ((0, 0), (side, side)), (side, side), output_type="pt"
        ),
    }  # fmt: skip


def z_residuals(ask: Ask) -> Arguments:
    tokens = (ask.size // 2) ** 2
    return {"controlnet_block_samples": {0: ask.noise(ask.batch, 32 * -(-tokens // 32) + 32, 24)}}


@tiny(
    "ZImageTransformer2DModel", "Z-Image", latents="x", in_channels=4, dim=24, n_layers=BLOCKS, n_refiner_layers=1,
    n_heads=2, n_kv_heads=2, cap_feat_dim=12, axes_dims=[4, 4, 4], axes_lens=[256, 32, 32], residuals=z_residuals,
)  # fmt: skip
def z_image(ask: Ask) -> Arguments:
    return {
        "x": list(ask.video(4)[:, :, :1]), "t": ask.time, "cap_feats": list(ask.text(12)),
    }  # fmt: skip


@tiny(
    "PRXTransformer2DModel", "PRX", in_channels=4, context_in_dim=12, hidden_size=16, num_heads=2, depth=BLOCKS,
    axes_dim=[4, 4],
)  # fmt: skip
def prx(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.image(4), "timestep": ask.time, "encoder_hidden_states": ask.text(12),
        "attention_mask": ask.mask(torch.bool),
    }  # fmt: skip


@tiny(
    "HiDreamImageTransformer2DModel", "HiDream", patch_size=2, in_channels=4, num_layers=BLOCKS,
    num_single_layers=BLOCKS, attention_head_dim=8, num_attention_heads=2, caption_channels=[12, 10], text_emb_dim=6,
    axes_dims_rope=(4, 2, 2), max_resolution=(16, 16), llama_layers=[0, 1, 1, 0], force_inference_output=True,
)  # fmt: skip
def hidream(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.image(4), "timesteps": ask.step, "encoder_hidden_states_t5": ask.text(12),
        "encoder_hidden_states_llama3": ask.noise(2, ask.batch, ask.tokens, 10), "pooled_embeds": ask.vector(6),
    }  # fmt: skip


@tiny(
    "ErnieImageTransformer2DModel", "Ernie-Image", hidden_size=16, num_attention_heads=2, num_layers=BLOCKS,
    ffn_hidden_size=32, in_channels=4, out_channels=4, text_in_dim=12, rope_axes_dim=(4, 2, 2),
)  # fmt: skip
def ernie(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.image(4), "timestep": ask.step, "text_bth": ask.text(12),
        "text_lens": torch.full((ask.batch,), ask.tokens),
    }  # fmt: skip


@tiny(
    "OmniGenTransformer2DModel", "OmniGen", in_channels=4, patch_size=2, hidden_size=16, num_attention_heads=2,
    num_key_value_heads=2, intermediate_size=32, num_layers=BLOCKS, pad_token_id=0, vocab_size=32,
    max_position_embeddings=256, original_max_position_embeddings=64, pos_embed_max_size=16, time_step_dim=16,
    rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4, "type": "su"},
)  # fmt: skip
def omnigen(ask: Ask) -> Arguments:
    length = ask.tokens + 1 + (ask.size // 2) ** 2
    return {
        "hidden_states": ask.image(4), "timestep": ask.time,
        "input_ids": torch.arange(ask.tokens).repeat(ask.batch, 1), "input_img_latents": [], "input_image_sizes": {},
        "attention_mask": torch.ones(ask.batch, length, length, dtype=torch.long),
        "position_ids": torch.arange(length).repeat(ask.batch, 1),
    }  # fmt: skip


@tiny(
    "PriorTransformer", "of U-Nets", **HEADS, embedding_dim=12, num_embeddings=5, additional_embeddings=4,
)  # fmt: skip
def prior(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.vector(12), "timestep": ask.step, "proj_embedding": ask.noise(ask.batch, 12) * 0.5,
        "encoder_hidden_states": ask.noise(ask.batch, 5, 12), "attention_mask": torch.ones(ask.batch, 5),
    }  # fmt: skip


@tiny("Transformer2DModel", "of U-Nets", **HEADS, in_channels=16, norm_num_groups=2, cross_attention_dim=12)
def transformer_2d(ask: Ask) -> Arguments:
    return {"hidden_states": ask.image(16), "encoder_hidden_states": ask.text(12), "timestep": ask.step}


@tiny("DreamLiteTransformer2DModel", "of U-Nets", **HEADS, in_channels=16, norm_num_groups=2, cross_attention_dim=12)
def dream_lite(ask: Ask) -> Arguments:
    return {"hidden_states": ask.image(16), "encoder_hidden_states": ask.text(12), "timestep": ask.step}


@tiny("TransformerTemporalModel", "of U-Nets", **HEADS, in_channels=16, norm_num_groups=2)
def temporal(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.noise(ask.batch * ask.frames, 16, ask.size, ask.size),
        "timestep": ask.step, "num_frames": ask.frames,
    }  # fmt: skip


@tiny(
    "BriaFibo2Transformer2DModel", "Bria", in_channels=4, dim=24, n_layers=BLOCKS, n_refiner_layers=1, n_heads=2,
    cap_feat_dim=12, injection_layer_ids=(1,), perceiver_num_layers=1, min_num_gist_tokens=2, max_num_gist_tokens=4,
    gist_step=2, gist_min_text_len=2, gist_max_text_len=8, axes_dims=(4, 4, 4), axes_lens=(32, 32, 32),
)  # fmt: skip
def bria_fibo2(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.image(4), "timestep": ask.time,
        "encoder_hidden_states": ask.noise(ask.batch, 2, ask.tokens, 12),
    }  # fmt: skip
