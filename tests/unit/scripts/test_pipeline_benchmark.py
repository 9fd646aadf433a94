"""scripts/benchmark.py pipelines: every contender caches the steps that its row says, on a tiny DiT of diffusers."""

from typing import Any

import pytest
import torch
from benchmarks import pipeline_steps

from goc.check import step_times
from goc.check.contenders import Contender
from goc.check.peers import BLOCK
from goc.cli.random_weights import randomize

from diffusers import DiTTransformer2DModel  # isort: skip

ROWS = ("none", "goc 50 %", "reuse stack 50 %")
pytestmark = pytest.mark.slow


def tiny() -> Any:
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, sample_size=8,
        num_embeds_ada_norm=1000,
    )  # fmt: skip


@pytest.fixture
def load() -> pipeline_steps.PipelineLoad:
    shape = pipeline_steps.Shape(
        "dit", tiny, pipeline_steps.call_dit, lambda batch: torch.randn(batch, 4, 8, 8), (16,),
        branches=([rf"{BLOCK}\.(attn1|ff)"], None), last=(["proj_out_2"], [BLOCK]),
    )  # fmt: skip
    model = tiny()
    randomize(model, seed=0)
    return pipeline_steps.PipelineLoad(shape, model.state_dict(), 2, 8, torch.device("cpu"))


@torch.inference_mode()
def test_every_contender_caches_the_steps_of_its_schedule(load: pipeline_steps.PipelineLoad) -> None:
    entries = list(pipeline_steps.contenders(load))
    notes = {entry[0]: entry[1] for entry in entries if isinstance(entry, tuple)}
    assert all("not installed" in note for note in notes.values()), notes
    for entry in entries:
        if isinstance(entry, Contender):
            cached = [step for step, _ in enumerate(entry.start()) if entry.was_cached()]
            assert cached == entry.cached_steps(load.steps), entry.name


def test_a_row_of_the_table_is_measured(load: pipeline_steps.PipelineLoad) -> None:
    entries = [entry for entry in pipeline_steps.contenders(load) if step_times.name_of(entry) in ROWS]
    table = step_times.table(entries, load, 1).set_index("method")
    assert table.loc["goc 50 %", "cached_share"] == 0.5
    assert table.loc["goc 50 %", "tensors_held"] == 2 * 3  # one for each branch of three blocks
    assert table.loc["reuse stack 50 %", "tensors_held"] == 1
    assert (table["note"] == "").all()
