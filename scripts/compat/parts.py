"""Small parts of pipelines beside the transformer: schedulers, autoencoders, guidance."""

from typing import Any

import diffusers
from compat.tiny import randomized

SCHEDULERS: dict[str, dict[str, Any]] = {  # by name in an annotation, with what makes them fit a tiny model
    "UniPCMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    "DPMSolverMultistepScheduler": {},
    "CogVideoXDDIMScheduler": {}, "CogVideoXDPMScheduler": {}, "DDPMScheduler": {"clip_sample": False},
    "EDMEulerScheduler": {}, "EDMDPMSolverMultistepScheduler": {}, "FlowMapEulerDiscreteScheduler": {},
    "HeliosScheduler": {}, "LTXEulerAncestralRFScheduler": {}, "SCMScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {},
}  # fmt: skip


def made(key: str, said: str) -> Any:
    """A part by its key and its annotation; None for what a call with embeddings does without."""
    if "scheduler" in key:
        if "KarrasDiffusionSchedulers" in said:
            return diffusers.DDIMScheduler(clip_sample=False)
        name = next((name for name in SCHEDULERS if name in said), "FlowMatchEulerDiscreteScheduler")
        return getattr(diffusers, name)(**SCHEDULERS.get(name, {}))
    if key == "vae":
        return next((make() for name, make in VAES.items() if name in said.replace("]", " ").split()), None)
    if key in ("guider", "ocr_guider"):
        return diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    if key.startswith("requires_safety"):
        return False
    return None


def vae_kl() -> Any:
    """Eight pixels a latent."""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return randomized(
        diffusers.AutoencoderKL(block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=4, **kinds)
    )


def vae_wan() -> Any:
    """Eight pixels and four frames a latent."""
    return randomized(
        diffusers.AutoencoderKLWan(
            base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        )
    )  # fmt: skip


def vae_qwen() -> Any:
    """As Wan's."""
    return randomized(
        diffusers.AutoencoderKLQwenImage(
            base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        )
    )  # fmt: skip


VAES = {"AutoencoderKL": vae_kl, "AutoencoderKLWan": vae_wan, "AutoencoderKLQwenImage": vae_qwen}
