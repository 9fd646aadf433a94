"""A tiny random pipeline of videos on disk, with two transformers that take turns, as Wan 2.2."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tiny_pipelines import randomized
from transformers import UMT5Config, UMT5EncoderModel

from goc.cli.random_pipeline import WIDTH, letters

CALL = ("+model.call.height=32", "+model.call.width=32", "+model.call.num_frames=5")
FRAMES = 3  # which its VAE makes of five


def write(folder: Path) -> Path:
    """The pipeline's folder, with prompts.txt."""
    tokenizer = letters()
    text = UMT5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, attn_scales=[], temperal_downsample=[True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip

    def transformer(scale: float) -> WanTransformer3DModel:
        made = randomized(
            WanTransformer3DModel(
                num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=WIDTH,
                freq_dim=16, ffn_dim=32, num_layers=3, rope_max_seq_len=32,
            )
        )  # fmt: skip
        made.blocks[0].ffn.net[2].weight.data.mul_(scale)
        return made

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = WanPipeline(
            tokenizer=tokenizer, text_encoder=randomized(UMT5EncoderModel(text)), vae=randomized(vae),
            transformer=transformer(1.0), transformer_2=transformer(1.5), boundary_ratio=0.8,
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )  # fmt: skip
    pipe.save_pretrained(folder)
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    return folder
