"""What a run needs of pipelines that are not the tiny one: PixArt-Sigma, FLUX with packed latents, two-stage steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_near, relative_difference
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
)
from tiny_pipelines import pixart, randomized
from torch import nn
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from goc.cli.random_pipeline import WIDTH, letters, text_config
from goc.cli.random_weights import randomize
from goc.pipelines.folder import load_pipeline
from goc.pipelines.generation import PipelineCalls, PipelineGeneration
from goc.pipelines.method import way_of
from goc.pipelines.planning import pipeline_plan

STEPS = 6
CPU = torch.device("cpu")
SIDE = {"height": 32, "width": 32}


def filled(module: nn.Module) -> Any:
    """With random weights whose activations keep their size."""
    randomize(module, 0)
    return module.eval().requires_grad_(False)


def t5() -> Any:
    config = T5Config(vocab_size=len(letters()), d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    return filled(T5EncoderModel(config))


def autoencoder() -> Any:
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(
        **levels, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, shift_factor=0.0
    )
    return filled(vae)


def worded_pixart() -> tuple[Any, dict[str, Any]]:
    pipe = PixArtSigmaPipeline(
        tokenizer=letters(), text_encoder=t5(), vae=autoencoder(), transformer=pixart().transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip
    return pipe, {**SIDE, "use_resolution_binning": False, "clean_caption": False}


def worded_flux() -> tuple[Any, dict[str, Any]]:
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    pipe = FluxPipeline(
        transformer=randomized(transformer), scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder(),
        text_encoder=filled(CLIPTextModel(text_config(letters()))), tokenizer=letters(), text_encoder_2=t5(),
        tokenizer_2=letters(),
    )  # fmt: skip
    return pipe, {**SIDE, "max_sequence_length": 32}


# rows of the transformer's input for a sample, evaluations, and the shape of its latents
EXPECTED = {"pixart": (2, STEPS, (4, 16, 16)), "flux": (1, STEPS, (64, 16)), "heun": (2, 2 * STEPS - 1, (4, 16, 16))}


@pytest.mark.parametrize("name", EXPECTED)
def test_samples_of_other_pipelines_are_their_own_and_are_cached(
    name: str, tiny_pipeline: Path, tmp_path: Path
) -> None:
    if name == "heun":
        pipe, more = load_pipeline(tiny_pipeline, None, CPU), {}
        pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    else:
        pipe, more = worded_pixart() if name == "pixart" else worded_flux()
    pipe.set_progress_bar_config(disable=True)
    calls = PipelineCalls(pipe, ("a cat", "two dogs"), STEPS, 3.0, more, CPU)
    uncached = PipelineGeneration(calls, seed=0)
    rows, evaluations, shape = EXPECTED[name]
    assert (calls.probe.rows, uncached.evaluations) == (rows, evaluations)
    full = uncached.cost(None)["macs_per_image"]
    assert full == pytest.approx(evaluations * rows * uncached.macs_per_forward)
    together, alone = uncached.make(range(3))[0], uncached.make(range(2, 3))[0]
    assert together["latents"].shape == (3, *shape)
    assert_near(alone["latents"][0], together["latents"][2])
    for site in ("branch", "stack"):
        way = way_of("goc", 0.5, STEPS, {"site": site, "inflection_threshold": -2.0})
        way.calibration_samples = 2
        generation = replace(uncached, new_cache=pipeline_plan(way, calls, {}, tmp_path).new_cache)
        made, cache = generation.make(range(3))
        cost = generation.cost(cache)
        assert cost["cache_ratio"] == pytest.approx(evaluations // 2 / evaluations, abs=0.1)
        assert 0.4 * full < cost["macs_per_image"] < 0.7 * full
        assert relative_difference(made["latents"], together["latents"]) > 1e-2
        assert len(generation.step_seconds(2)) == evaluations
