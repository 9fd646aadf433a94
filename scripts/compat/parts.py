"""Small parts of pipelines beside the transformer: schedulers, autoencoders, ControlNets, guidance."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import nn

from compat.tiny import BLOCKS, randomized

SCHEDULERS: dict[str, dict[str, Any]] = {  # by name in an annotation, with what makes them fit a tiny model
    "UniPCMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    "DPMSolverMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    "CogVideoXDDIMScheduler": {}, "CogVideoXDPMScheduler": {}, "DDPMScheduler": {"clip_sample": False},
    "EDMEulerScheduler": {}, "EDMDPMSolverMultistepScheduler": {}, "FlowMapEulerDiscreteScheduler": {},
    "HeliosScheduler": {"stages": 1}, "LTXEulerAncestralRFScheduler": {}, "FlowMatchEulerDiscreteScheduler": {},
    "DDIMScheduler": {"clip_sample": False},
}  # fmt: skip


class StandIn(nn.Module):
    """Stands for a part that is not tried here."""

    device, dtype = torch.device("cpu"), torch.float32


class Harmless(StandIn):
    """Stands for a safety checker: everything is safe."""

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def made(key: str, said: str) -> Any:
    """A part by its key and its annotation; None for what a call with embeddings does without."""
    names = re.findall(r"\w+", said)
    if "scheduler" in key:
        usual = "DDIMScheduler" if "KarrasDiffusionSchedulers" in said else "FlowMatchEulerDiscreteScheduler"
        name = next((name for name in SCHEDULERS if name in said), usual)
        return getattr(diffusers, name)(**SCHEDULERS[name])
    if key in ("vae", "controlnet"):
        return next((randomized(PARTS[name]()) for name in names if name in PARTS), None)
    if key in ("guider", "ocr_guider"):
        return diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    return False if key == "requires_safety_checker" else None


def of(name: str, **config: Any) -> Callable[..., Any]:
    """Builds a model of diffusers."""
    return lambda **more: getattr(diffusers, name)(**{**config, **more})


FOUR: dict[str, Any] = {"block_out_channels": (4,) * 4, "norm_num_groups": 2, "latent_channels": 4}
FLAT: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 1,
}  # fmt: skip
CAUSAL: dict[str, Any] = {
    "base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}  # fmt: skip
HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}

PARTS: dict[str, Callable[..., Any]] = {  # by class
    "AutoencoderKL": of("AutoencoderKL", **FOUR, **FLAT, shift_factor=0.0),
    "AutoencoderKLFlux2": of("AutoencoderKLFlux2", **FOUR, **FLAT),
    "AutoencoderKLWan": of("AutoencoderKLWan", **CAUSAL),
    "AutoencoderKLQwenImage": of("AutoencoderKLQwenImage", **CAUSAL),
    "AutoencoderKLCogVideoX": of("AutoencoderKLCogVideoX", **FOUR, layers_per_block=1),
    "AutoencoderKLMagvit": of("AutoencoderKLMagvit", **FOUR, layers_per_block=1),
    "AutoencoderKLHunyuanVideo": of("AutoencoderKLHunyuanVideo", **FOUR, layers_per_block=1),
    "AutoencoderKLHunyuanVideo15": of(
        "AutoencoderKLHunyuanVideo15", latent_channels=4, block_out_channels=(16,) * 5, layers_per_block=1
    ),
    "AutoencoderKLHunyuanImageRefiner": of(
        "AutoencoderKLHunyuanImageRefiner", latent_channels=4, block_out_channels=(16,) * 5, layers_per_block=1
    ),
    "AutoencoderKLLTXVideo": of(
        "AutoencoderKLLTXVideo", latent_channels=8, block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4,
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
    ),
    "AutoencoderOobleck": of(
        "AutoencoderOobleck", encoder_hidden_size=4, downsampling_ratios=[2, 4], channel_multiples=[1, 2],
        decoder_channels=4, decoder_input_channels=4, sampling_rate=64,
    ),
    "FluxControlNetModel": of(
        "FluxControlNetModel", **HEADS, in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=12,
        pooled_projection_dim=10, axes_dims_rope=(4, 6, 6),
    ),
    "SD3ControlNetModel": of(
        "SD3ControlNetModel", num_attention_heads=2, attention_head_dim=8, sample_size=8, in_channels=4, out_channels=4,
        num_layers=1, joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10,
        pos_embed_max_size=16,
    ),
    "QwenImageControlNetModel": of(
        "QwenImageControlNetModel", **HEADS, in_channels=16, out_channels=4, num_layers=1, joint_attention_dim=12,
        axes_dims_rope=(4, 6, 6),
    ),
    "HunyuanDiT2DControlNetModel": of(
        "HunyuanDiT2DControlNetModel", num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2,
        sample_size=8, hidden_size=16, transformer_num_layers=2 * BLOCKS, cross_attention_dim=12,
        cross_attention_dim_t5=16, pooled_projection_dim=8, text_len=5, text_len_t5=6,
    ),
    "ZImageControlNetModel": of(
        "ZImageControlNetModel", control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=4, dim=24,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    ),
    "SanaControlNetModel": of(
        "SanaControlNetModel", num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4,
        num_layers=1, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=12, sample_size=8,
    ),
}  # fmt: skip
PARTS["AutoencoderDC"] = of(
    "AutoencoderDC", latent_channels=4, attention_head_dim=4, encoder_block_types="ResBlock",
    decoder_block_types="ResBlock", encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4,
    encoder_layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4, encoder_qkv_multiscales=((),) * 4,
    decoder_qkv_multiscales=((),) * 4,
)  # fmt: skip
PARTS["FluxControlNetMultiControlNetModel"] = PARTS["FluxControlNetModel"]


class Scales(StandIn):
    """Stands for an autoencoder whose latents are as they are: its sizes and scales alone."""

    def __init__(self, spatial: int, channels: int) -> None:
        super().__init__()
        self.spatial_compression_ratio, self.temporal_compression_ratio = spatial, 4
        self.mel_compression_ratio, self.downsampling_ratio = 4, 8
        self.latents_mean, self.latents_std = torch.zeros(channels), torch.ones(channels)
        self.config = SimpleNamespace(
            scaling_factor=1.0, timestep_conditioning=False, latent_channels=8, mel_bins=64, sample_rate=16000,
            mel_hop_length=160, sampling_rate=64, latent_dim=channels,
        )  # fmt: skip


class Chat(StandIn):
    """Stands for the processor of a text encoder that is not asked."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer, self.image_processor = SimpleNamespace(encode=lambda _: [1]), None

    def apply_chat_template(self, *_: Any, **__: Any) -> list[list[int]]:
        return [[0]]


class Conditions(StandIn):
    """Stands for ACE-Step's encoder of text, lyrics and timbre: the text alone."""

    def __init__(self) -> None:
        super().__init__()
        self.silence_latent, self.null_condition_emb = torch.zeros(1, 64, 4), torch.zeros(1, 1, 16)

    def forward(self, text_hidden_states: torch.Tensor, text_attention_mask: torch.Tensor, **_: Any) -> Any:
        return text_hidden_states, text_attention_mask


class Connectors(StandIn):
    """Stands for LTX-2's: the text's tokens, for the video and for the sound."""

    def forward(self, embeds: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
        return embeds, 0.5 * embeds, mask
