"""goc check's graphs, with tapes of operations in place of graphs: what is not the same, or not captured, is told."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from tapes import tape_capture

from goc.check import graphs
from goc.check.contenders import Project, Workload, project_contenders
from goc.check.setting import TINY
from goc.models.dit import DiT
from goc.sampling.graphs import Trajectory

CPU = torch.device("cpu")


@pytest.fixture
def work(tiny_dit: DiT) -> Iterator[Workload]:
    with torch.inference_mode():
        yield Workload(tiny_dit, batch=2, cfg_scale=1.5, steps=4, device=CPU)


def contender(work: Workload, name: str) -> Project:
    (one,) = [entry for entry in project_contenders(work) if entry.name == name]
    assert isinstance(one, Project)
    return one


@pytest.mark.parametrize("name", graphs.METHODS[False])
def test_what_is_replayed_has_the_same_bits_and_times(work: Workload, name: str) -> None:
    kernel = work.model.add_all
    row = graphs.compared(contender(work, name), work, tape_capture, 1)
    assert (row["same"], row["note"]) == (True, "")
    assert row["graph_images_per_s"] > 0
    assert pd.isna(row["graph_cached_ms"]) is (name == "none")
    assert work.model.add_all is kernel


def test_what_is_not_captured_as_it_is_has_no_times(work: Workload) -> None:
    row = graphs.compared(contender(work, "goc 50 %"), work, partial(tape_capture, without="addcmul_"), 1)
    assert row["same"]  # as it is launched kernel by kernel
    assert row["note"] == "a replay does not end at the same bits"
    assert pd.isna(row["times"])


def test_other_bits_and_what_is_not_captured_are_failures(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    good = graphs.compared(contender(work, "goc 50 %"), work, tape_capture, 1)
    bad = [{**good, "same": False}, {**good, "note": "it cannot be captured", "times": float("nan")}]
    monkeypatch.setattr(graphs, "rows", lambda setting, capture: iter([good, *bad]))
    outcome = graphs.check(TINY)
    assert outcome.failures == [
        "goc 50 %, 2 images: a batch made by graphs has other bits",
        "goc 50 %, 2 images: launched kernel by kernel, as it cannot be captured",
    ]
    assert outcome.findings[0] == "1 of 3 trajectories have the same bits as graphs."


def test_bits_are_compared_of_a_batch_that_is_replayed(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    one = contender(work, "goc 50 %")
    replayed = Trajectory.replayed

    def wrong(self: Trajectory, model: Any) -> object:
        right = replayed(self, model)
        return (lambda *inputs: 1.01 * right(*inputs)) if proven else right

    proven: list[bool] = []
    make = type(work.generation()).make

    def counted(self: Any, indices: range) -> object:
        if indices.start:
            proven.append(True)
        return make(self, indices)

    monkeypatch.setattr(Trajectory, "replayed", wrong)
    monkeypatch.setattr(type(work.generation()), "make", counted)
    assert not graphs.compared(one, work, tape_capture, 1)["same"]
