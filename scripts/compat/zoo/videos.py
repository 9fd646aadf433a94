"""Transformers of videos."""

from typing import Any

import torch
from compat.tiny import BLOCKS, Arguments, Ask, tiny

WAN: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 12,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": BLOCKS, "rope_max_seq_len": 32,
}  # fmt: skip


def wan(ask: Ask) -> Arguments:
    return {"hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12)}


tiny("WanTransformer3DModel", "Wan", **WAN)(wan)
tiny("ChronoEditTransformer3DModel", "Wan", **WAN, rope_temporal_skip_len=4)(wan)
tiny("SkyReelsV2Transformer3DModel", "SkyReels", **WAN)(wan)


@tiny("WanVACETransformer3DModel", "Wan", **WAN, vace_layers=[0], vace_in_channels=8)
def wan_vace(ask: Ask) -> Arguments:
    return wan(ask) | {"control_hidden_states": ask.video(8), "control_hidden_states_scale": torch.ones(1)}


@tiny("AnyFlowTransformer3DModel", "AnyFlow", **WAN)
def anyflow(ask: Ask) -> Arguments:
    time = ask.step[:, None].repeat(1, ask.frames)
    return {
        "hidden_states": ask.video(4).transpose(1, 2), "timestep": time, "r_timestep": 0.5 * time,
        "encoder_hidden_states": ask.text(12),
    }  # fmt: skip


@tiny("AnyFlowFARTransformer3DModel", "AnyFlow", **WAN, chunk_partition=(1, 1))
def anyflow_far(ask: Ask) -> Arguments:
    return anyflow(ask) | {"chunk_partition": [1] * ask.frames}


@tiny(
    "AllegroTransformer3DModel", "Allegro", num_attention_heads=2, attention_head_dim=12, num_layers=BLOCKS,
    cross_attention_dim=24, sample_height=8, sample_width=8, sample_frames=2, caption_channels=12,
)  # fmt: skip
def allegro(ask: Ask) -> Arguments:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    side = ask.size // 2
    rotary, positions = get_3d_rotary_pos_embed_allegro(
        embed_dim=12, crops_coords=((0, 0), (side, side)), grid_size=(side, side), temporal_size=ask.frames
    )
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "attention_mask": torch.ones(ask.batch, ask.frames, ask.size, ask.size),
        "encoder_attention_mask": ask.mask(), "image_rotary_emb": (rotary, positions),
    }  # fmt: skip


COGVIDEO: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8,
    "text_embed_dim": 12, "num_layers": BLOCKS, "sample_width": 8, "sample_height": 8, "sample_frames": 5,
    "max_text_seq_length": 16, "use_rotary_positional_embeddings": True,
}  # fmt: skip


@tiny("CogVideoXTransformer3DModel", "CogVideoX", **COGVIDEO)
def cogvideo(ask: Ask) -> Arguments:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    side = ask.size // 2
    return {
        "hidden_states": ask.video(4).transpose(1, 2), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "image_rotary_emb": get_3d_rotary_pos_embed(16, ((0, 0), (side, side)), (side, side), ask.frames),
    }  # fmt: skip


tiny("ConsisIDTransformer3DModel", "CogVideoX", **COGVIDEO)(cogvideo)


@tiny(
    "EasyAnimateTransformer3DModel", "EasyAnimate", num_attention_heads=2, attention_head_dim=16, in_channels=4,
    out_channels=4, patch_size=2, sample_width=8, sample_height=8, num_layers=BLOCKS, mmdit_layers=BLOCKS,
    time_embed_dim=8, text_embed_dim=12,
)  # fmt: skip
def easy_animate(ask: Ask) -> Arguments:
    return {"hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12)}


def cosmos_residuals(ask: Ask) -> Arguments:
    tokens = ask.frames * (ask.size // 2) ** 2
    return {"block_controlnet_hidden_states": [ask.noise(ask.batch, tokens, 32) for _ in range(BLOCKS)]}


@tiny(
    "CosmosTransformer3DModel", "Cosmos", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
    num_layers=BLOCKS, mlp_ratio=2.0, text_embed_dim=12, adaln_lora_dim=4, max_size=(4, 32, 32), concat_padding_mask=False,
    controlnet_block_every_n=1, residuals=cosmos_residuals,
)  # fmt: skip
def cosmos(ask: Ask) -> Arguments:
    return {"hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12)}


HUNYUAN: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": BLOCKS,
    "num_refiner_layers": 1, "text_embed_dim": 12, "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
HUNYUAN_FIRST: dict[str, Any] = {**HUNYUAN, "num_single_layers": BLOCKS, "pooled_projection_dim": 8, "patch_size": 2}


@tiny("HunyuanVideoTransformer3DModel", "HunyuanVideo", **HUNYUAN_FIRST)
def hunyuan_video(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "encoder_attention_mask": ask.mask(), "pooled_projections": ask.vector(8),
        "guidance": torch.full((ask.batch,), 6000.0),
    }  # fmt: skip


@tiny(
    "HunyuanVideoFramepackTransformer3DModel", "HunyuanVideo", **HUNYUAN_FIRST, has_image_proj=True, image_proj_dim=10,
    has_clean_x_embedder=True,
)  # fmt: skip
def framepack(ask: Ask) -> Arguments:
    def indices(first: int, count: int) -> Any:
        return torch.arange(first, first + count).repeat(ask.batch, 1)

    def history(count: int) -> Any:
        return ask.noise(ask.batch, 4, count, ask.size, ask.size)

    return hunyuan_video(ask) | {
        "image_embeds": ask.noise(ask.batch, 3, 10), "indices_latents": indices(8, ask.frames),
        "latents_clean": history(2), "indices_latents_clean": indices(0, 2),
        "latents_history_2x": history(2), "indices_latents_history_2x": indices(2, 2),
        "latents_history_4x": history(4), "indices_latents_history_4x": indices(4, 4),
    }  # fmt: skip


@tiny(
    "HunyuanVideo15Transformer3DModel", "HunyuanVideo", **HUNYUAN, text_embed_2_dim=10, image_embed_dim=8,
    target_size=64,
)  # fmt: skip
def hunyuan_video15(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "encoder_attention_mask": ask.mask(), "encoder_hidden_states_2": ask.text(10),
        "encoder_attention_mask_2": ask.mask(), "image_embeds": ask.noise(ask.batch, 3, 8),
    }  # fmt: skip


@tiny(
    "LatteTransformer3DModel", "Latte", num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
    num_layers=BLOCKS, cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=12, video_length=2,
    norm_type="ada_norm_single", num_embeds_ada_norm=1000, activation_fn="gelu-approximate", attention_bias=True,
    norm_elementwise_affine=False, norm_eps=1e-6,
)  # fmt: skip
def latte(ask: Ask) -> Arguments:
    return {"hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12)}


@tiny(
    "LTXVideoTransformer3DModel", "LTX", in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8,
    cross_attention_dim=16, num_layers=BLOCKS, caption_channels=12,
)  # fmt: skip
def ltx(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.noise(ask.batch, ask.frames * ask.size**2, 8), "timestep": ask.step,
        "encoder_hidden_states": ask.text(12), "encoder_attention_mask": ask.mask(),
        "num_frames": ask.frames, "height": ask.size, "width": ask.size,
    }  # fmt: skip


LTX2: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16,
    "audio_in_channels": 8, "audio_out_channels": 8, "audio_num_attention_heads": 2, "audio_attention_head_dim": 4,
    "audio_cross_attention_dim": 8, "num_layers": BLOCKS, "caption_channels": 12,
}  # fmt: skip


@tiny("LTX2VideoTransformer3DModel", "LTX", **LTX2)
def ltx2(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.noise(ask.batch, ask.frames * ask.size**2, 8), "timestep": ask.step,
        "audio_hidden_states": ask.noise(ask.batch, 2 * ask.frames, 8), "encoder_hidden_states": ask.text(12),
        "audio_encoder_hidden_states": 0.5 * ask.text(12), "encoder_attention_mask": ask.mask(),
        "audio_encoder_attention_mask": ask.mask(), "num_frames": ask.frames, "height": ask.size, "width": ask.size,
        "audio_num_frames": 2 * ask.frames,
    }  # fmt: skip


@tiny(
    "MochiTransformer3DModel", "Mochi", num_attention_heads=2, attention_head_dim=8, num_layers=BLOCKS,
    pooled_projection_dim=8, in_channels=4, text_embed_dim=12, time_embed_dim=8, max_sequence_length=16,
)  # fmt: skip
def mochi(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "encoder_attention_mask": ask.mask(torch.bool),
    }  # fmt: skip


@tiny(
    "SanaVideoTransformer3DModel", "Sana", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
    num_layers=BLOCKS, num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24,
    caption_channels=12, sample_size=8, rope_max_seq_len=32,
)  # fmt: skip
def sana_video(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "encoder_attention_mask": ask.mask(),
    }  # fmt: skip


@tiny(
    "Kandinsky5Transformer3DModel", "Kandinsky", in_visual_dim=4, out_visual_dim=4, in_text_dim=12, in_text_dim2=8,
    time_dim=16, model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=BLOCKS, axes_dims=(4, 6, 6),
)  # fmt: skip
def kandinsky5(ask: Ask) -> Arguments:
    side = ask.size // 2
    return {
        "hidden_states": ask.video(4).movedim(1, -1), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "pooled_projections": ask.vector(8), "text_rope_pos": torch.arange(ask.tokens),
        "visual_rope_pos": [torch.arange(ask.frames), torch.arange(side), torch.arange(side)],
    }  # fmt: skip


@tiny(
    "MotifVideoTransformer3DModel", "MotifVideo", in_channels=4, out_channels=4, num_attention_heads=2,
    attention_head_dim=16, num_layers=BLOCKS, num_single_layers=BLOCKS, text_embed_dim=12, rope_axes_dim=(4, 6, 6),
)  # fmt: skip
def motif(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "encoder_attention_mask": ask.mask(),
    }  # fmt: skip
