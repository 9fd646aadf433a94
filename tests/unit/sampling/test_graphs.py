"""Evaluations that are captured and replayed, as CUDA graphs are, by tapes of their operations on the CPU."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from generations import generation
from tapes import tape_capture

from goc.caching.cache import AdaptiveCache, ScheduledCache, StepCache
from goc.caching.decision import TeaCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.caching.schedule import uniform
from goc.models.dit import DiT
from goc.models.network import Site
from goc.models.packed import FLOAT8
from goc.sampling.generation import Generation
from goc.sampling.graphs import Capture, Graphs, Trajectory
from goc.sampling.options import SAMPLERS

PREDICTORS: dict[str, Callable[..., Predictor] | None] = {
    "none": None,
    "reuse": Reuse,
    "goc": partial(GradientQueue, weights=[1.2, -0.3]),
    "taylorseer": partial(Taylor, order=2),
    "taylorseer in float8": partial(Taylor, order=2, dtype=FLOAT8),
}
STEPS = 8


def sampled(model: DiT, name: str, site: Site, sampler: str = "ddim") -> Generation:
    mask = uniform(STEPS, model.depth, 0.75)
    mask[1] = False  # two computed steps, then several cached ones in a row
    if site == "stack":
        mask = mask[:, :1, :1]
    new_predictor = PREDICTORS[name]
    uncached = replace(generation(model, sampler), solver=SAMPLERS[sampler]().solver(STEPS))
    if new_predictor is None:
        return uncached
    return replace(uncached, new_cache=lambda: ScheduledCache(mask, new_predictor(mask), site))


def graphed(plain: Generation, capture: Callable[[], Capture] = tape_capture) -> Generation:
    return replace(plain, graphs=Graphs(plain.new_cache, capture))


def count_calls(model: DiT, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many evaluations ran their Python, in its only entry."""
    calls, stack = [0], DiT.stack

    def counted(*args: Any, **kwargs: Any) -> object:
        calls[0] += 1
        return stack(*args, **kwargs)

    monkeypatch.setattr(DiT, "stack", counted)
    return calls


@pytest.mark.parametrize("site", ["branch", "stack"])
@pytest.mark.parametrize("name", PREDICTORS)
def test_replayed_trajectories_are_those_of_no_graphs_bit_for_bit(
    tiny_dit: DiT, name: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sampled(tiny_dit, name, site)
    replaying = graphed(plain)
    batches = [range(2), range(2, 4), range(4, 6), range(6, 9), range(6), range(9, 12), range(12, 15), range(6, 8)]
    replays = [False, False, True, False, False, False, True, True]
    calls = count_calls(tiny_dit, monkeypatch)
    for indices, replayed in zip(batches, replays, strict=True):
        expected, cache = plain.make(indices)
        before = calls[0]
        made, replaying_cache = replaying.make(indices)
        assert (calls[0] == before) is replayed
        for field, tensor in expected.items():
            assert torch.equal(made[field], tensor), field
        assert replaying.cost(replaying_cache) == plain.cost(cache)
    assert replaying.graphs is not None
    assert replaying.graphs.sizes.keys() == {2, 3}
    each = {len(trajectory.evaluations) for trajectory in replaying.graphs.sizes.values()}
    assert each == {1 if name == "none" else STEPS}  # without a cache all evaluations are the same


def test_a_solver_that_draws_replays_as_well(tiny_dit: DiT) -> None:
    plain = sampled(tiny_dit, "goc", "branch", "ddpm")
    replaying = graphed(plain)
    for indices in (range(2), range(2), range(2, 4)):
        assert torch.equal(replaying.make(indices)[0]["latents"], plain.make(indices)[0]["latents"])
    assert replaying.graphs is not None
    assert replaying.graphs.sizes.keys() == {2}


def test_an_output_stays_as_it_is_for_solvers_that_keep_it() -> None:
    trajectory = Trajectory(tape_capture(), None)
    double = trajectory.captured(lambda x, t, y: 2 * x)
    first, second = (double(torch.full((2,), value), torch.zeros(1), torch.zeros(1)) for value in (1.0, 5.0))
    assert (first.tolist(), second.tolist()) == ([2.0, 2.0], [10.0, 10.0])
    assert len(trajectory.evaluations) == 1


def failing_capture(message: str) -> Callable[[], Capture]:
    def fail(compute: object) -> object:
        raise RuntimeError(f"{message}\nand more")

    return lambda: fail  # it never makes the graph that it should return


@pytest.mark.parametrize(
    ("capture", "why"),
    [
        (failing_capture("operation not permitted"), r"cannot be captured \(operation not permitted\)$"),
        (lambda: tape_capture(without="addmm"), "does not end at the same bits$"),
    ],
)
def test_what_cannot_be_captured_is_computed_as_ever_and_said_once(
    tiny_dit: DiT, capture: Callable[[], Capture], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = sampled(tiny_dit, "goc", "branch")
    replaying = graphed(plain, capture)
    with caplog.at_level(logging.WARNING, logger="goc"):
        for first in range(0, 10, 2):
            indices = range(first, first + 2)
            assert torch.equal(replaying.make(indices)[0]["latents"], plain.make(indices)[0]["latents"])
    (line,) = [record.getMessage() for record in caplog.records if record.name == "goc.sampling.graphs"]
    assert line.startswith("graphs: steps are launched kernel by kernel, as ")
    assert re.search(why, line)


def test_caches_that_decide_as_they_run_are_not_captured(tiny_dit: DiT, caplog: pytest.LogCaptureFixture) -> None:
    possible = torch.ones(STEPS, 1, 1, dtype=torch.bool)
    possible[0] = False

    def new_cache() -> StepCache:
        return AdaptiveCache(possible, Reuse(possible), TeaCache(1.0), "stack")

    replaying = graphed(replace(sampled(tiny_dit, "none", "branch"), new_cache=new_cache))
    for _ in range(4):
        replaying.make(range(2))
    assert replaying.graphs is not None
    assert not replaying.graphs.sizes
    assert [record.getMessage() for record in caplog.records if record.name == "goc.sampling.graphs"] == [
        "graphs: steps are launched kernel by kernel, as what this cache computes is not known beforehand"
    ]


def test_a_generation_made_of_another_one_does_not_take_its_graphs(tiny_dit: DiT) -> None:
    replaying = graphed(sampled(tiny_dit, "none", "branch"))
    for _ in range(3):
        replaying.make(range(2))
    other = sampled(tiny_dit, "reuse", "branch")
    cached = replace(replaying, new_cache=other.new_cache)
    assert torch.equal(cached.make(range(2))[0]["latents"], other.make(range(2))[0]["latents"])
