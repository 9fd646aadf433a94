"""Cells by hand: masks of one, what a predictor gives there, and what recorders see of made-up features."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from goc.caching.cache import StepCache
from goc.caching.calibration import AlignmentRecorder, ProductRecorder
from goc.caching.predictor import Predictor, evaluate

CELL = (0, 0)
masks = st.lists(st.booleans(), min_size=1, max_size=14).map(lambda tail: [False, *tail])
weight_lists = st.lists(st.floats(-2, 2), max_size=4)


def one_cell(cached: list[bool]) -> Tensor:
    return torch.tensor(cached)[:, None, None]


def used_values(predictor: Predictor, mask: Tensor, features: Tensor) -> list[Tensor]:
    """What a cell uses in each step, when the computed feature of step i is features[i]."""
    values = []
    for step, feature in enumerate(features):
        if mask[step, 0, 0]:
            values.append(evaluate(predictor.predict(step, CELL)).clone())
        else:
            values.append(feature)
            predictor.store(step, CELL, feature.clone())
    return values


def feed(recorder: StepCache, batches: list[Tensor]) -> None:
    """Run a recorder over batches of features [steps, blocks, branches, N, tokens, hidden]."""
    for features in batches:
        steps, blocks, branches = features.shape[:3]
        for step in range(steps):
            recorder.begin_step(step)
            for block in range(blocks):
                for branch in range(branches):
                    assert recorder.lookup(block, branch) is None
                    recorder.store(block, branch, features[step, block, branch])


def record(batches: list[Tensor]) -> AlignmentRecorder:
    """What a recorder of alignments has seen of such batches."""
    steps, blocks, branches = batches[0].shape[:3]
    recorder = AlignmentRecorder((steps, blocks, branches))
    feed(recorder, batches)
    return recorder


def record_products(batches: list[Tensor]) -> Tensor:
    """Inner products of every two steps' features, float64 [steps, steps, blocks, branches]."""
    steps, blocks, branches = batches[0].shape[:3]
    recorder = ProductRecorder((steps, blocks, branches))
    feed(recorder, batches)
    return recorder.products()


def products_of(features: Tensor) -> Tensor:
    """Inner products as a calibration measures them, of features [steps, cells, n]: [steps, steps, cells, 1]."""
    return torch.einsum("icn,jcn->ijc", features, features)[..., None]
