"""Transformers of videos."""

import functools
from typing import Any

import torch

from compat.tiny import BLOCKS, ZOO, Arguments, Ask, tiny

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
    *rotary, t, h, w = get_3d_rotary_pos_embed_allegro(
        embed_dim=12, crops_coords=((0, 0), (side, side)), grid_size=(side, side), temporal_size=ask.frames
    )
    positions = torch.cartesian_prod(t.long(), h.long(), w.long()).T[:, None].contiguous()
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "attention_mask": torch.ones(ask.batch, ask.frames, ask.size, ask.size),
        "encoder_attention_mask": ask.mask(), "image_rotary_emb": (tuple(rotary), tuple(positions)),
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
    num_layers=BLOCKS, mlp_ratio=2.0, text_embed_dim=12, adaln_lora_dim=4, max_size=(4, 32, 32),
    concat_padding_mask=False, controlnet_block_every_n=1, residuals=cosmos_residuals,
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
    return ask.masked_text(ask.video(4)) | {
        "pooled_projections": ask.vector(8),
        "guidance": torch.full((ask.batch,), 6000.0),
    }  # fmt: skip


@tiny(
    "HunyuanVideoFramepackTransformer3DModel", "HunyuanVideo", **HUNYUAN_FIRST, has_image_proj=True, image_proj_dim=10,
    has_clean_x_embedder=True,
)  # fmt: skip
def framepack(ask: Ask) -> Arguments:
    def indices(first: int, count: int) -> Any:
        return torch.arange(first, first + count)

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
    return ask.masked_text(ask.video(4)) | {
        "encoder_hidden_states_2": ask.text(10),
        "encoder_attention_mask_2": ask.mask(), "image_embeds": ask.noise(ask.batch, 3, 8),
    }  # fmt: skip


@tiny(
    "LatteTransformer3DModel", "Latte", num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
    num_layers=BLOCKS, cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=12, video_length=2,
    norm_type="ada_norm_single", num_embeds_ada_norm=1000, activation_fn="gelu-approximate", attention_bias=True,
    norm_elementwise_affine=False, norm_eps=1e-6,
)  # fmt: skip
def latte(ask: Ask) -> Arguments:
    latents = ask.noise(ask.batch, 4, 2, ask.size, ask.size)
    return {"hidden_states": latents, "timestep": ask.step, "encoder_hidden_states": ask.text(12)}


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
    pooled_projection_dim=8, in_channels=4, text_embed_dim=16, time_embed_dim=8, max_sequence_length=16,
)  # fmt: skip
def mochi(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4), "timestep": ask.step, "encoder_hidden_states": ask.text(16),
        "encoder_attention_mask": ask.mask(torch.bool),
    }  # fmt: skip


@tiny(
    "SanaVideoTransformer3DModel", "Sana", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
    num_layers=BLOCKS, num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24,
    caption_channels=12, sample_size=8, rope_max_seq_len=32,
)  # fmt: skip
def sana_video(ask: Ask) -> Arguments:
    return ask.masked_text(ask.video(4))


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
    return ask.masked_text(ask.video(4))


@tiny(
    "HeliosTransformer3DModel", "Helios", **{k: v for k, v in WAN.items() if k != "rope_max_seq_len"},
    rope_dim=(4, 4, 4),
)  # fmt: skip
def helios(ask: Ask) -> Arguments:
    return wan(ask) | {
        "indices_hidden_states": torch.arange(1, 1 + ask.frames).repeat(ask.batch, 1),
        "indices_latents_history_short": torch.zeros(ask.batch, 1, dtype=torch.long),
        "latents_history_short": ask.noise(ask.batch, 4, 1, ask.size, ask.size),
    }


JOY: dict[str, Any] = {
    "in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "text_dim": 12, "num_layers": BLOCKS,
    "rope_dim_list": [4, 6, 6],
}  # fmt: skip
tiny("JoyImageEditTransformer3DModel", "JoyImage", **JOY)(wan)


@tiny("JoyImageEditPlusTransformer3DModel", "JoyImage", **JOY)
def joy_plus(ask: Ask) -> Arguments:
    side = ask.size // 2
    return {
        "hidden_states": ask.noise(ask.batch, 2 * side * side, 4, 1, 2, 2), "timestep": ask.step,
        "encoder_hidden_states": ask.text(12), "encoder_hidden_states_mask": ask.mask(torch.float32),
        "shape_list": [[(1, side, side), (1, side, side)]] * ask.batch,
    }  # fmt: skip


@tiny(
    "Kandinsky6Transformer3DModel", "Kandinsky", in_visual_dim=4, out_visual_dim=4, in_text_dim=12, in_text_dim2=8,
    time_dim=16, model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=BLOCKS, axes_dims=(4, 6, 6),
    visual_cond=False, in_audio_dim=4, out_audio_dim=4, model_dim_a=16, time_dim_a=16, ff_dim_a=16,
    axes_dims_a=(2, 2, 4),
)  # fmt: skip
def kandinsky6(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4).movedim(1, -1), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "pooled_projections": ask.vector(8), "audio_hidden_states": ask.noise(ask.batch, 2 * ask.frames, 4),
    }  # fmt: skip


@tiny(
    "Kandinsky6SRTransformer3DModel", "Kandinsky", in_visual_dim=4, out_visual_dim=4, time_dim=16, model_dim=32,
    ff_dim=32, num_visual_blocks=BLOCKS, axes_dims=(4, 6, 6),
)  # fmt: skip
def kandinsky6_sr(ask: Ask) -> Arguments:
    side = 8 * -(-ask.size // 8)
    return {"hidden_states": ask.noise(ask.batch, ask.frames, side, side, 9), "timestep": ask.step}


@tiny(
    "MiniMaxH3Transformer3DModel", "MiniMax", num_attention_heads=2, attention_head_dim=16, hidden_size=32,
    num_layers=BLOCKS, num_refiner_layers=1, ffn_dim=32, in_channels=2, audio_in_channels=4, text_dim=12, freq_dim=16,
    time_embed_hidden_dim=16, time_embed_dim=8, rope_freq_dim=2,
)  # fmt: skip
def minimax_h3(ask: Ask) -> Arguments:
    grid = ask.grid()
    counts = ask.tokens, len(grid), 3
    text, video, audio = torch.arange(sum(counts)).split(counts)
    places = torch.cat([ask.text_positions(), grid, torch.zeros(3, 3)]).long()
    return {
        "hidden_states": ask.packed(8), "audio_hidden_states": ask.noise(ask.batch, 3, 4),
        "encoder_hidden_states": ask.text(12), "timestep": ask.time[:1],
        "timestep_indices": torch.zeros(sum(counts), dtype=torch.long),
        "token_tags": torch.tensor([1] * counts[0] + [0] * counts[1] + [2] * counts[2]), "position_ids": places,
        "video_indices": video, "audio_indices": audio, "text_indices": text,
    }  # fmt: skip


@tiny(
    "SanaWMTransformer3DModel", "Sana", in_channels=4, num_layers=BLOCKS, hidden_size=24, num_attention_heads=2,
    softmax_every_n=2, linear_head_dim=12, caption_channels=12, chunk_plucker_channels=6,
)  # fmt: skip
def sana_wm(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.video(4), "timestep": ask.step[:, None, None].repeat(1, 1, ask.frames),
        "encoder_hidden_states": ask.text(12)[:, None], "encoder_attention_mask": ask.mask(),
    }  # fmt: skip


@functools.cache
def refiner_rotary(batch: int, frames: int, size: int) -> Any:
    model = ZOO["SanaWMLTX2RefinerTransformer3DModel"].build()
    return model.build_rotary_emb_for_absolute_positions(batch, list(range(frames)), size, size, "cpu", 24.0)


@tiny("SanaWMLTX2RefinerTransformer3DModel", "Sana", **LTX2)
def sana_wm_refiner(ask: Ask) -> Arguments:
    tokens = ask.frames * ask.size**2
    return {
        "hidden_states": ask.noise(ask.batch, tokens, 8), "timestep": ask.step[:, None].repeat(1, tokens),
        "encoder_hidden_states": ask.text(12), "encoder_attention_mask": ask.mask(),
        "video_rotary_emb": refiner_rotary(ask.batch, ask.frames, ask.size),
    }  # fmt: skip


@tiny(
    "WanAnimateTransformer3DModel", "Wan", **{**WAN, "in_channels": 12}, latent_channels=4, image_dim=None,
    motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8}, motion_encoder_size=16, motion_style_dim=8, motion_dim=4,
    motion_encoder_dim=8, face_encoder_hidden_dim=16, face_encoder_num_heads=2, inject_face_latents_blocks=2,
)  # fmt: skip
def wan_animate(ask: Ask) -> Arguments:
    frames = ask.frames + 1
    return {
        "hidden_states": ask.noise(ask.batch, 12, frames, ask.size, ask.size), "timestep": ask.step,
        "encoder_hidden_states": ask.text(12),
        "pose_hidden_states": ask.noise(ask.batch, 4, ask.frames, ask.size, ask.size),
        "face_pixel_values": ask.noise(ask.batch, 3, 4 * (ask.frames - 1) + 1, 16, 16),
    }  # fmt: skip


@tiny(
    "Cosmos3OmniTransformer", "Cosmos", latents="vision_tokens", dtype="float32", head_dim=8, hidden_size=16,
    intermediate_size=32, latent_channel=4, num_attention_heads=2, num_hidden_layers=BLOCKS, num_key_value_heads=1,
    patch_latent_dim=16, rope_axes_dim=(2, 1, 1), vocab_size=32,
)  # fmt: skip
def cosmos3(ask: Ask) -> Arguments:
    side = ask.size // 2
    vision = ask.frames * side * side
    length = ask.tokens + vision
    indexes = torch.arange(ask.tokens, length)
    return {
        "input_ids": torch.arange(ask.tokens), "text_indexes": torch.arange(ask.tokens),
        "position_ids": torch.arange(length).repeat(3, 1), "und_len": ask.tokens, "sequence_length": length,
        "vision_tokens": [ask.noise(1, 4, ask.frames, ask.size, ask.size)],
        "vision_token_shapes": [(ask.frames, side, side)], "vision_sequence_indexes": indexes,
        "vision_mse_loss_indexes": indexes, "vision_timesteps": torch.full((vision,), ask.t),
        "vision_noisy_frame_indexes": [torch.arange(ask.frames)],
    }  # fmt: skip


@tiny(
    "WanAnimate2Transformer3DModel", "Wan", text_len=8, in_dim=12, dim=24, ffn_dim=32, freq_dim=16, text_dim=12,
    out_dim=4, num_heads=2, num_layers=BLOCKS, use_img_emb=False,
)  # fmt: skip
def wan_animate2(ask: Ask) -> Arguments:
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    side, frames = ask.size // 2, ask.frames + 1
    cache = WanAnimate2KVCache(BLOCKS)
    for i in range(BLOCKS):  # as a pass with the reference frames would fill it
        key, value = ask.noise(2, ask.batch, ask.frames * side * side, 2, 12)
        cache.get(i).store(key, value)
    return {
        "hidden_states": list(ask.noise(ask.batch, 4, frames, ask.size, ask.size)), "timestep": ask.step,
        "encoder_hidden_states": list(ask.text(12)),
        "condition_latents": list(ask.noise(ask.batch, 8, frames, ask.size, ask.size)), "kv_cache": cache,
        "kv_cache_mode": "cached", "seq_len": frames * side * side,
        "reference_grid_sizes": torch.tensor([[ask.frames, side, side]] * ask.batch),
        "origin_len": 4 * (ask.frames - 1), "origin_area": [8 * ask.size, 8 * ask.size],
    }  # fmt: skip
