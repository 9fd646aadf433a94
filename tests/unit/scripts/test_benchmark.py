"""scripts/benchmark.py steps: a fair comparison, and a table that leaves nothing out. No test looks at a time."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import benchmark
import pytest
import torch
from closeness import assert_near, relative_difference
from torch import Tensor

from goc.check import peers, roofline, step_times
from goc.check.contenders import CachedSteps, Contender, Project, Workload, evenly, project_contenders
from goc.models.cost import forward_macs
from goc.models.dit import DiT
from goc.system.command import run_command

STEPS = 8
OWN = [
    *("none", "idle", "reuse 50 %", "goc 50 %", "reuse 75 %", "goc 75 %", "taylorseer"),
    *("reuse stack 50 %", "goc stack 50 %", "taylor stack 50 %", "textbook reuse 50 %", "textbook goc 50 %"),
]
PEERS = [
    *("diffusers none", "diffusers taylorseer", "diffusers taylorseer lite", "diffusers first block 50 %"),
    *("cache-dit 50 %", "cache-dit taylor 50 %"),
]


pytestmark = pytest.mark.slow


@pytest.fixture
def workload(tiny_dit: DiT) -> Workload:
    return Workload(tiny_dit, batch=2, cfg_scale=1.5, steps=STEPS, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def contender(workload: Workload, name: str) -> Contender:
    (named,) = [entry for entry in project_contenders(workload) if entry.name == name]
    return named


def available_peers(workload: Workload) -> list[Contender]:
    return [entry for entry in peers.peers(workload) if isinstance(entry, Contender)]


@pytest.mark.parametrize("method", ["reuse", "goc"])
def test_the_textbook_makes_the_projects_images(workload: Workload, method: str) -> None:
    textbook = list(contender(workload, f"textbook {method} 50 %").start())
    project = list(contender(workload, f"{method} 50 %").start())
    assert_near(textbook, project)
    uncached = list(contender(workload, "none").start())
    assert relative_difference(textbook[-1], uncached[-1]) > 1e-2


def test_goc_differs_from_reuse_in_the_textbook(workload: Workload) -> None:
    reuse, goc = (list(contender(workload, f"textbook {name} 50 %").start())[-1] for name in ("reuse", "goc"))
    assert relative_difference(goc, reuse) > 1e-2


def observed_cached_steps(entry: Contender) -> list[int]:
    return [step for step, _ in enumerate(entry.start()) if entry.was_cached()]


@pytest.mark.parametrize("repeat", [1, 2])
def test_the_cached_steps_that_are_found_are_those_of_the_schedule(workload: Workload, repeat: int) -> None:
    for entry in [*project_contenders(workload), *available_peers(workload)]:
        for _ in range(repeat):
            steps = observed_cached_steps(entry)
            entry.drop()
        assert steps == entry.cached_steps(STEPS), entry.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("none", []), ("idle", []), ("goc 50 %", [1, 3, 5, 7]), ("goc 75 %", [1, 2, 3, 5, 6, 7])],
)
def test_cached_steps(workload: Workload, name: str, expected: list[int]) -> None:
    assert observed_cached_steps(contender(workload, name)) == expected


def test_diffusers_model_has_the_projects_weights_and_computes_the_same(tiny_dit: DiT) -> None:
    other = peers.diffusers_dit(tiny_dit)
    weight = other.transformer_blocks[1].ff.net[2].weight
    assert weight.data_ptr() == tiny_dit.blocks[1].mlp.fc2.weight.data_ptr()
    x, y = torch.randn(3, 2, 4, 4), torch.tensor([0, 4, 5])
    # at t = 0 the frequencies of the timestep's embedding, which differ, do not matter
    expected = tiny_dit(x, torch.tensor([0]), y)
    assert_near(other(x, torch.zeros(3), y).sample, expected)


def test_peers_give_finite_images_or_a_reason(workload: Workload) -> None:
    for entry in peers.peers(workload):
        if isinstance(entry, Contender):
            assert all(x.isfinite().all() for x in entry.start()), entry.name
        else:
            assert entry[1]


def test_a_peers_second_trajectory_is_its_first_again(workload: Workload) -> None:
    for entry in available_peers(workload):
        first = list(entry.start())[-1]
        assert torch.equal(list(entry.start())[-1], first), entry.name


def test_a_peer_that_caches_is_not_its_uncached_self(workload: Workload) -> None:
    baseline, *others = available_peers(workload)
    uncached = list(baseline.start())[-1]
    assert len(others) >= 3
    for entry in others:
        assert relative_difference(list(entry.start())[-1], uncached) > 1e-2, entry.name


def test_a_missing_peer_is_a_row_with_its_reason(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    entries = dict(entry for entry in peers.peers(workload) if isinstance(entry, tuple))
    assert entries.keys() == {"cache-dit 50 %", "cache-dit taylor 50 %"}
    assert all(why.startswith("not installed: pip install") for why in entries.values())


class Broken(peers.Peer):
    """A peer that fails in its second step."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, cache: object) -> Tensor:
        if self.clock.step == 1:
            raise RuntimeError("no such kernel\ndetails")
        return super().__call__(x, t, y, self.clock)


def test_a_peer_that_fails_as_it_runs_is_a_row_with_its_reason(workload: Workload) -> None:
    table = step_times.table([contender(workload, "none"), Broken("broken", workload)], workload, 1)
    assert table["note"].tolist() == ["", "RuntimeError: no such kernel"]
    assert math.isnan(table["full_median_s"][1])


class Full(Project):
    """A contender that there is not memory enough for."""

    def start(self) -> Iterator[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_method_that_there_is_no_memory_for_is_a_row_with_its_reason(workload: Workload) -> None:
    table = step_times.table([contender(workload, "none"), Full("full", workload, evenly(0.5))], workload, 1)
    assert table["note"].tolist() == ["", "OutOfMemoryError: CUDA out of memory."]
    assert table["full_median_s"].notna().tolist() == [True, False]


def test_held_tensors_are_those_that_the_caches_count(workload: Workload) -> None:
    for entry in project_contenders(workload):
        if isinstance(entry, Project) and entry.new_cache:
            cache = entry.new_cache()
            entry.new_cache = lambda cache=cache: cache
            measured = step_times.Measured()
            step_times.walk(entry, workload, measured)
            assert measured.tensors_held == cache.peak_cache_tensors, entry.name


def test_peak_of_trace_is_the_running_sums_maximum() -> None:
    changes = [(3, -60), (1, 100), (2, -30), (4, 50), (5, 5)]
    events = [{"name": "[memory]", "ts": ts, "args": {"Bytes": size}} for ts, size in changes]
    assert step_times.peak_of_trace({"traceEvents": [{"name": "aten::add"}, *events]}) == 100


def timed(name: str, cached_steps: CachedSteps, workload: Workload) -> Project:
    return Project(name, workload, cached_steps)


def test_ratios_speed_up_and_images_per_second(workload: Workload) -> None:
    entries = [timed("none", lambda steps: [], workload), timed("half", evenly(0.5), workload)]
    results = {
        "none": step_times.Measured(full=[1.0, 4.0, 1.5]),
        "half": step_times.Measured(full=[2.0, 3.0, 2.0], cached=[0.25, 0.5, 1.0]),
    }
    bare, half = step_times.rows(entries, results, workload)
    assert (bare["speedup"], bare["full_median_s"], bare["cached_median_s"]) == (1.0, 1.5, None)
    assert (half["cached_of_full_min"], half["cached_of_full_median"]) == (0.125, 0.25)
    assert half["images_per_s"] == 2 / (10 * 2.0 + 10 * 0.5)
    assert half["speedup"] == 20 * 1.5 / 25
    assert (half["ideal"], half["cached_steps_timed"]) == (2.0, 3)


def test_chosen_rows_come_with_what_they_are_measured_against(workload: Workload) -> None:
    entries = [*project_contenders(workload), *peers.peers(workload)]
    names = [step_times.name_of(entry) for entry in benchmark.chosen(entries, ["diffusers taylorseer", "goc 50 %"])]
    assert names == ["none", "goc 50 %", "diffusers none", "diffusers taylorseer"]


@pytest.mark.parametrize("stacked", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_graphs_are_counted_when_they_are_compiled(
    workload: Workload, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # what becomes of a graph is not counted
    torch._dynamo.reset()
    model = workload.model
    if stacked:  # as on a GPU
        model.stack_modulation()
    model.compile_branches()
    work = replace(workload, compiled=True)
    names = ("none", "reuse 50 %", "goc 50 %")
    table = step_times.table([entry for entry in project_contenders(work) if entry.name in names], work, 1)
    assert table["graphs"].tolist() == [2, 1, 0]  # a full step's two; a cached step's, which the queue shares
    assert table["recompiled"].tolist() == [0, 0, 0]


@pytest.mark.nightly
def test_the_command_writes_every_row_and_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model", "DiT-S/8", "--image-size", "64", "--batch", "1", "--steps", "8", "--repeats", "1"]
    assert benchmark.main(["steps", *options]) == 0
    written = json.loads((tmp_path / "outputs" / "benchmark" / "steps.json").read_text())
    assert written["command"] == ["steps", *options]
    rows = {row["method"]: row for row in written["rows"]}
    assert list(rows) == OWN + PEERS
    assert all(list(row) == step_times.COLUMNS for row in rows.values())
    for name in OWN:
        assert rows[name]["note"] == ""
        assert rows[name]["images_per_s"] > 0
    depth = 12
    held = [rows[name]["tensors_held"] for name in ("idle", "reuse 50 %", "goc 50 %", "textbook goc 50 %")]
    assert held == [0, 2 * depth, 2 * depth, 4 * depth]
    assert rows["taylor stack 50 %"]["tensors_held"] <= 3
    assert rows["goc 50 %"]["cached_steps_timed"] == rows["textbook goc 50 %"]["cached_steps_timed"] == 4
    assert rows["none"]["peak_mib"] < rows["goc 50 %"]["peak_mib"] < rows["textbook goc 50 %"]["peak_mib"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "DiT-M/2"], "--model DiT-M/2"),
        (["--batch", "0"], "--batch=0: must be at least 1"),
        (["--steps", "3"], "--steps 3: must be at least 4"),
        (["--model", "DiT-S/8", "--rows", "goc"], "--rows goc: must be of none, idle, "),
    ],
)
def test_wrong_options_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(partial(benchmark.main, ["steps", *options])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_roofline_counts_operations_as_the_cost_does_and_weights_at_least_once() -> None:
    table = roofline.table("DiT-S/2", 32, guided=True)
    with torch.device("meta"):
        model = DiT.published("DiT-S/2", 32)
    case = table[(table["precision"] == "bf16") & (table["batch"] == 8)].set_index("step")
    assert case["gflop"]["full"] == pytest.approx(2 * 16 * forward_macs(model) / 1e9)
    assert case["mb"]["full"] > 2 * sum(weight.numel() for weight in model.blocks.parameters()) / 1e6
    assert case["of_full"]["full"] == 1.0
    kinds = ["cached, stack", "cached, compiled", "cached"]
    assert list(case["of_full"][kinds]) == sorted(case["of_full"][kinds])
    assert case["of_full"]["cached"] < 1.0
    assert set(case["bound"][kinds]) == {"memory"}
    # all passes over the float32 residual stream but one are saved
    tensor = 16 * model.num_tokens * model.hidden_size
    passes = 2 * model.depth
    assert case["mb"]["cached"] - case["mb"]["cached, compiled"] == pytest.approx(8 * (passes - 1) * tensor / 1e6)
    assert set(table["batch"]) == {1, 8, 32, 64}
