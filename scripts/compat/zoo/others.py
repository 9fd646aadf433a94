"""Transformers of sounds, and of molecules."""

from typing import Any

import torch

from compat.tiny import BLOCKS, Arguments, Ask, tiny

HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_layers": BLOCKS}


@tiny(
    "AceStepTransformer1DModel", "AceStep", hidden_size=16, intermediate_size=32, num_hidden_layers=BLOCKS,
    num_attention_heads=2, num_key_value_heads=1, head_dim=8, in_channels=12, audio_acoustic_hidden_dim=4,
    sliding_window=4,
)  # fmt: skip
def ace_step(ask: Ask) -> Arguments:
    length = 2 * ask.size
    return {
        "hidden_states": ask.noise(ask.batch, length, 4), "timestep": ask.time, "timestep_r": ask.time,
        "encoder_hidden_states": ask.text(16), "context_latents": ask.noise(ask.batch, length, 8),
    }  # fmt: skip


@tiny(
    "LongCatAudioDiTTransformer", "LongCat", dit_dim=16, dit_depth=BLOCKS, dit_heads=2, dit_text_dim=12, latent_dim=4,
)  # fmt: skip
def longcat_audio(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.noise(ask.batch, 2 * ask.size, 4), "timestep": ask.time,
        "encoder_hidden_states": ask.text(12), "encoder_attention_mask": ask.mask(torch.bool),
    }  # fmt: skip


@tiny("StableAudioDiTModel", "StableAudio", **HEADS, sample_size=16, in_channels=4, out_channels=4,
      attention_head_dim=8, num_key_value_attention_heads=1, cross_attention_dim=8, time_proj_dim=8,
      global_states_input_dim=10, cross_attention_input_dim=12)  # fmt: skip
def stable_audio(ask: Ask) -> Arguments:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    length = 2 * ask.size
    return {
        "hidden_states": ask.noise(ask.batch, 4, length), "timestep": ask.step, "encoder_hidden_states": ask.text(12),
        "global_hidden_states": ask.noise(ask.batch, 1, 10),
        "rotary_embedding": get_1d_rotary_pos_embed(4, length + 1, use_real=True, repeat_interleave_real=False),
    }  # fmt: skip


@tiny(
    "StableAudio3DiTModel", "StableAudio", io_channels=4, embed_dim=32, depth=BLOCKS, num_heads=2, cond_token_dim=12,
    global_cond_dim=10, local_add_cond_dim=5, timestep_features_dim=8, num_memory_tokens=2,
)  # fmt: skip
def stable_audio3(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.noise(ask.batch, 4, 2 * ask.size), "timestep": ask.time,
        "encoder_hidden_states": ask.text(12), "global_hidden_states": ask.vector(10),
    }  # fmt: skip


@tiny(
    "MiniMaxMusic3Transformer1DModel", "MiniMax", **HEADS, in_channels=4, condition_dim=12, attention_head_dim=8,
    ff_inner_dim=32, rotary_dim=4, fourier_embedding_dim=8,
)  # fmt: skip
def minimax_music3(ask: Ask) -> Arguments:
    return {
        "hidden_states": ask.noise(ask.batch, 4, ask.size), "timestep": ask.time,
        "encoder_hidden_states": ask.noise(ask.batch, ask.size, 12),
    }  # fmt: skip


@tiny(
    "MiniMaxMusic3RVQDepthDecoder", "MiniMax", **HEADS, latents="inputs_embeds", hidden_size=16, intermediate_size=32,
    audio_vocab_size=16, num_codebooks=4,
)  # fmt: skip
def minimax_depth(ask: Ask) -> Arguments:
    return {"inputs_embeds": ask.noise(ask.batch, 4, 16)}


@tiny(
    "T5FilmDecoder", "T5Film", latents="decoder_input_tokens", input_dims=8, targets_length=16, d_model=16,
    num_layers=BLOCKS, num_heads=2, d_kv=8, d_ff=32,
)  # fmt: skip
def t5_film(ask: Ask) -> Arguments:
    return {
        "encodings_and_masks": [(ask.text(16), ask.mask())], "decoder_input_tokens": ask.noise(ask.batch, 16, 8),
        "decoder_noise_time": ask.time,
    }  # fmt: skip


@tiny(
    "RFD4ProteinaTransformer", "RFD4", latents="bb_ca", nlayers=BLOCKS, token_dim=16, nheads=2, dim_cond=8,
    pair_repr_dim=8, latent_dim=4, token_type_emb_dim=4, t_emb_dim=8, xt_pair_dist_dim=6, tri_mult_c=8,
    num_sequence_classes=6, feats_seq=("xt_bb_ca", "xt_local_latents", "token_type"),
    feats_cond_seq=("time_emb_bb_ca", "time_emb_local_latents"), feats_pair_repr=("xt_bb_ca_pair_dists",),
)  # fmt: skip
def rfd4(ask: Ask) -> Arguments:
    there = torch.ones(ask.batch, ask.tokens, dtype=torch.bool)
    return {
        "bb_ca": ask.text(3), "local_latents": ask.text(4), "bb_ca_time": ask.time, "local_latents_time": ask.time,
        "padding_mask": there, "token_type": torch.zeros(ask.batch, ask.tokens, dtype=torch.long),
        "conditioning": {"is_in_context_conditioning": ~there, "supports_local_latent": there},
    }  # fmt: skip
