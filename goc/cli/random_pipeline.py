"""Writes a tiny random text-to-image pipeline, so that all that is done with one runs without any released file.

It has the parts of Stable Diffusion 3 (two CLIP text encoders, a transformer of joint attention, an autoencoder, flow
matching) but for its third text encoder, in the folder format of diffusers; its tokens are single letters.
"""

from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from transformers.utils import logging as transformers_logging

BLOCKS = 3
LATENT_SIDE = 16  # of 32 image pixels
WIDTH = 16
TOKENS = 77
TINY = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPTS = (
    "a red cat on a wooden table",
    "two birds above the sea at dawn",
    "a lighthouse in heavy rain",
    "an old map, hand drawn",
    "a bowl of oranges, oil painting",
    "a city street at night",
)


def letters() -> CLIPTokenizer:
    """A tokenizer of CLIP's kind that knows no longer token than a letter."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=TOKENS)


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """Of a tiny text encoder for a tokenizer."""
    return CLIPTextConfig(
        **TINY, vocab_size=len(tokenizer), projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def write_pipeline(folder: Path, seed: int, randomize: Callable[[nn.Module, int], None]) -> None:
    """The pipeline's folder. randomize(module, seed) fills a module's layers."""
    tokenizer = letters()
    parts: dict[str, Any] = {
        "transformer": SD3Transformer2DModel(
            sample_size=LATENT_SIDE, patch_size=2, in_channels=4, num_layers=BLOCKS, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH, out_channels=4, pos_embed_max_size=LATENT_SIDE,
        ),
        "vae": AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, latent_channels=4,
            sample_size=2 * LATENT_SIDE, shift_factor=0.0, scaling_factor=1.0,
        ),
        "text_encoder": CLIPTextModelWithProjection(text_config(tokenizer)),
        "text_encoder_2": CLIPTextModelWithProjection(text_config(tokenizer)),
    }  # fmt: skip
    for number, part in enumerate(parts.values()):
        randomize(part, seed + number)
    pipe: Any = StableDiffusion3Pipeline(
        **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, text_encoder_3=None, tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def write_clip(folder: Path, seed: int, randomize: Callable[[nn.Module, int], None]) -> None:
    """A tiny CLIP in the folder format of transformers."""
    tokenizer, side = letters(), 2 * LATENT_SIDE
    seeing = {**TINY, "image_size": side, "patch_size": 8}
    config = CLIPConfig(text_config=text_config(tokenizer).to_dict(), vision_config=seeing, projection_dim=WIDTH)
    network = CLIPModel(config)
    randomize(network, seed)
    network.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)


def write_blip(folder: Path, seed: int, randomize: Callable[[nn.Module, int], None]) -> None:
    """A tiny BLIP in the folder format of transformers."""
    side = 2 * LATENT_SIDE
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *(f"{sign}{letter}" for sign in ("", "##") for letter in ascii_lowercase)]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=TOKENS)
    network = BlipForImageTextRetrieval(BlipConfig(
        text_config={**TINY, "vocab_size": len(vocabulary), "encoder_hidden_size": WIDTH,
                     "max_position_embeddings": TOKENS, "pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3},
        vision_config={**TINY, "image_size": side, "patch_size": 8},
        projection_dim=WIDTH, image_text_hidden_size=WIDTH,
    ))  # fmt: skip
    randomize(network, seed)
    network.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": side, "width": side}), tokenizer).save_pretrained(folder)


def write(folder: Path, seed: int, randomize: Callable[[nn.Module, int], None]) -> list[Path]:
    """The pipeline, prompts.txt, and clip/ and blip/ for the scores of images and prompts; returns what was written."""
    logging.set_verbosity_error()  # that there is no third text encoder is announced
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):  # a few parameters are in no layer
        torch.manual_seed(seed)
        write_pipeline(folder, seed, randomize)
        write_clip(folder / "clip", seed, randomize)
        write_blip(folder / "blip", seed, randomize)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return [folder, folder / "prompts.txt", folder / "clip", folder / "blip"]
