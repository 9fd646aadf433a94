"""Caches in diffusers' transformers: every contender caches the steps that its row says, in tiny ones."""

import pandas as pd
import pytest
import torch

from goc.check import shapes, step_times, transformer_steps
from goc.check.contenders import Contender
from goc.check.transformers import PipelineLoad, contenders

ROWS = ("none", "goc 50 %", "reuse stack 50 %")
pytestmark = pytest.mark.slow


SHAPES = (shapes.dit("dit", 2, 8, 3, 8), *shapes.TINY)


def load_of(shape: shapes.Shape) -> PipelineLoad:
    device = torch.device("cpu")
    return PipelineLoad(shape, shape.random(device, torch.float32), 2, 8, device)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@torch.inference_mode()
def test_every_contender_caches_the_steps_of_its_schedule(shape: shapes.Shape) -> None:
    load = load_of(shape)
    entries = list(contenders(load))
    notes = {entry[0]: entry[1] for entry in entries if isinstance(entry, tuple)}
    assert all("not installed" in note for note in notes.values()), notes
    for entry in entries:
        if isinstance(entry, Contender):
            cached = [step for step, _ in enumerate(entry.start()) if entry.was_cached()]
            assert cached == entry.cached_steps(load.steps), entry.name


def test_a_row_of_the_table_is_measured() -> None:
    load = load_of(SHAPES[0])
    entries = [entry for entry in contenders(load) if step_times.name_of(entry) in ROWS]
    table = step_times.table(entries, load, 1).set_index("method")
    assert table.loc["goc 50 %", "cached_share"] == 0.5
    assert table.loc["goc 50 %", "tensors_held"] == 2 * 3  # one for each branch of three blocks
    assert table.loc["reuse stack 50 %", "tensors_held"] == 1
    assert (table["note"] == "").all()


def test_what_is_said_of_a_transformer_names_the_quickest_of_others() -> None:
    frame = pd.DataFrame(
        {
            "method": ["none", "goc 50 %", "goc stack 50 %", "diffusers taylorseer", "cache-dit 50 %"],
            "full_median_ms": [40.0, 41.0, 40.0, 45.0, float("nan")],
            "cached_median_ms": [float("nan"), 4.0, 1.0, 3.0, float("nan")],
        }
    )
    said = transformer_steps.said(frame)
    assert "a full step takes 40 ms, a cached one of GOC 4 ms, at site=stack 1 ms" in said
    assert said.endswith("the quickest of others, diffusers taylorseer, 3 ms.")
    assert transformer_steps.said(frame[:3]).endswith("no cache of others ran.")


@pytest.mark.parametrize("shape", shapes.FULL, ids=lambda shape: shape.name)
@torch.inference_mode()
def test_the_published_widths_run_and_their_features_have_the_tokens_that_are_said(shape: shapes.Shape) -> None:
    meta = torch.device("meta")  # has shapes and no values
    with meta:
        model = shape.make().bfloat16()
        x = torch.empty(1, *shape.noise, dtype=torch.bfloat16)
    tokens = []
    getattr(model, shape.first)[-1].register_forward_hook(
        lambda _, __, output: tokens.extend(part.shape[1] for part in (output if type(output) is tuple else [output]))
    )
    with meta:
        assert shape.call(model, x, torch.tensor(999.0)).shape == x.shape
    assert set(tokens) <= set(shape.tokens)
    assert sum(len(blocks) for name, blocks in model.named_children() if name.endswith("blocks")) == 4
