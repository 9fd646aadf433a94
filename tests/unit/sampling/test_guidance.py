"""What guidance may save: intervals and predicted differences, against loops written out, with every kind of cache."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_near, relative_difference
from plans import EVALUATIONS, planned
from torch import Tensor

from goc.caching.halves import HalfCaches, halves
from goc.config import compose_config
from goc.models.cost import forward_macs, image_macs
from goc.models.dit import DiT
from goc.planning.denoiser import calibration_of
from goc.planning.plan import Plan
from goc.sampling.generation import Generation
from goc.sampling.search import final_latents

GUIDED = "cfg_scale=2"
INTERVAL = "guidance_interval=[0.3,5]"
SOLVERS = {
    "ddim": [],
    "unipc": ["sampler=unipc"],
    "euler": ["model=digits_flow"],
    "heun": ["model=digits_flow", "sampler=heun"],
}
LINEAR = "cfg_cache_predictor=linear"
DECIDING = ("teacache", "easycache")
CACHES = ["reuse", "goc", "taylorseer", "goc_stack", "goc_logsnr", *DECIDING]


def made(plan: Plan, generation: Generation, indices: range = range(4)) -> tuple[Tensor, dict[str, float]]:
    """The samples' latents, and what they cost."""
    cached = replace(generation, new_cache=plan.new_cache if plan.spares else None)
    tensors, cache = cached.make(indices)
    return tensors["latents"], cached.cost(cache)


def by_hand(model: DiT, generation: Generation, kinds: list[str], linear: bool = False) -> Tensor:
    """Samples of a loop without caches; kinds: of each evaluation, "guided", "unguided", or "predicted"."""
    labels, gaussian = generation.drawn(range(4))
    null, times, scale = torch.full_like(labels, model.num_classes), generation.solver.grid.times, 2.0
    known: list[tuple[int, Tensor]] = []

    def denoise(x: Tensor, i: int) -> Tensor:
        t = torch.as_tensor(times[i : i + 1])
        cond, channels = model(x, t, labels), min(generation.cfg_channels, x.shape[1])
        if kinds[i] == "unguided":
            return cond
        if kinds[i] == "guided":
            difference = (cond - model(x, t, null))[:, :channels]
            known.append((i, difference))
        else:
            place, difference = known[-1]
            if linear and len(known) > 1:
                before, older = known[-2]
                difference = difference + (difference - older) / (place - before) * (i - place)
        return torch.cat([cond[:, :channels] + (scale - 1) * difference, cond[:, channels:]], dim=1)

    with torch.inference_mode():
        *_, x = generation.solver.sample(denoise, gaussian(), gaussian)
    return x


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_guidance_in_an_interval_of_noise_levels_is_the_loop_that_guides_there(
    tiny_dit: DiT, tmp_path: Path, solver: str
) -> None:
    plan, generation = planned(tiny_dit, tmp_path, *SOLVERS[solver], GUIDED, "method=none", INTERVAL)
    sigmas = np.exp(-generation.solver.grid.log_snr)
    if solver in ("ddim", "unipc"):
        assert_near(sigmas, generation.solver.grid.sigmas)
    else:  # but for both ends, where a ratio is infinite or zero
        inside, times = sigmas[2:-2], generation.solver.grid.times[2:-2]
        assert_near(inside, (1 - times) / times)
    kinds = ["guided" if 0.3 < sigma <= 5 else "unguided" for sigma in sigmas]
    assert 0 < kinds.count("guided") < EVALUATIONS
    x, cost = made(plan, generation)
    assert_near(x, by_hand(tiny_dit, generation, kinds))
    everywhere, _ = planned(tiny_dit, tmp_path, *SOLVERS[solver], GUIDED, "method=none")
    assert relative_difference(x, made(everywhere, generation)[0]) > 1e-3
    spent = EVALUATIONS + kinds.count("guided")
    assert cost["macs_per_image"] == spent * forward_macs(tiny_dit)
    assert cost["cache_ratio"] == pytest.approx(1 - spent / (2 * EVALUATIONS))


@pytest.mark.parametrize("predictor", ["reuse", "linear"])
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_the_difference_of_the_halves_is_predicted_as_by_hand(
    tiny_dit: DiT, tmp_path: Path, solver: str, predictor: str
) -> None:
    settings = [*SOLVERS[solver], GUIDED, "method=none", "cfg_cache=0.5", f"cfg_cache_predictor={predictor}"]
    plan, generation = planned(tiny_dit, tmp_path, *settings)
    x, cost = made(plan, generation)
    assert_near(x, by_hand(tiny_dit, generation, ["guided", "predicted"] * (EVALUATIONS // 2), predictor == "linear"))
    assert cost["macs_per_image"] == EVALUATIONS * 3 / 2 * forward_macs(tiny_dit)
    assert cost["cache_ratio"] == pytest.approx(0.25)


@pytest.mark.parametrize("settings", [["cfg_cache=0"], ["guidance_interval=[0,1000]"], ["cfg_cache=0.01"]])
@pytest.mark.parametrize("method", ["none", "goc", "teacache"])
def test_what_saves_nothing_changes_no_bit(tiny_dit: DiT, tmp_path: Path, settings: list[str], method: str) -> None:
    plan, generation = planned(tiny_dit, tmp_path, GUIDED, f"method={method}")
    spared, _ = planned(tiny_dit, tmp_path, GUIDED, f"method={method}", *settings)
    assert spared.halves is None
    assert torch.equal(made(spared, generation)[0], made(plan, generation)[0])


@pytest.mark.parametrize("method", [method for method in CACHES if method not in DECIDING])
def test_halves_that_always_go_together_are_as_one(tiny_dit: DiT, tmp_path: Path, method: str) -> None:
    """Caches of their own change nothing but rounding."""
    plan, generation = planned(tiny_dit, tmp_path, GUIDED, f"method={method}")
    together = halves([True] * EVALUATIONS, [False] * EVALUATIONS)
    assert together.complete
    one, cost = made(plan, generation)
    halved, halved_cost = made(replace(plan, halves=together), generation)
    assert_near(halved, one)
    assert halved_cost["cache_ratio"] == pytest.approx(cost["cache_ratio"])
    for name in ("macs_per_image", "peak_cache_bytes"):
        assert halved_cost[name] == cost[name]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(INTERVAL,), ("cfg_cache=0.5", LINEAR), (INTERVAL, "cfg_cache=0.4")])
@pytest.mark.parametrize(
    ("method", "solver"),
    [
        (method, solver)
        for method in CACHES
        for solver in ("ddim", "heun")
        if solver == "ddim" or method not in DECIDING
    ],
)
def test_every_cache_works_on_halves_and_alone_as_in_a_batch(
    tiny_dit: DiT, tmp_path: Path, settings: tuple[str, ...], method: str, solver: str
) -> None:
    common = [*SOLVERS[solver], GUIDED, *settings]
    plan, generation = planned(tiny_dit, tmp_path, *common, f"method={method}", "cache_ratio=0.5")
    without, _ = planned(tiny_dit, tmp_path, *common, "method=none")
    x, cost = made(plan, generation)
    alone = [made(plan, generation, range(i, i + 1)) for i in range(4)]
    assert_near(x, torch.cat([one for one, _ in alone]))
    assert cost["cache_ratio"] == pytest.approx(np.mean([float(each["cache_ratio"]) for _, each in alone]))
    least = made(without, generation)[1]["cache_ratio"]
    assert cost["cache_ratio"] >= least if plan.adaptive else cost["cache_ratio"] > least
    assert x.isfinite().all()


@pytest.mark.parametrize("settings", [[INTERVAL], ["cfg_cache=0.5"]])
@pytest.mark.parametrize("method", ["reuse", "goc", "taylorseer", "teacache", "goc_stack"])
def test_a_cache_that_caches_nothing_is_none(tiny_dit: DiT, tmp_path: Path, settings: list[str], method: str) -> None:
    nothing = ["schedule.interval=1"] if method == "taylorseer" else ["cache_ratio=0"]
    nothing = ["schedule.threshold=0"] if method == "teacache" else nothing
    plan, generation = planned(tiny_dit, tmp_path, GUIDED, *settings, f"method={method}", *nothing)
    without, _ = planned(tiny_dit, tmp_path, GUIDED, *settings, "method=none")
    x, cost = made(plan, generation)
    expected, spent = made(without, generation)
    assert torch.equal(x, expected)
    looked_at = cost["macs_per_image"] - spent["macs_per_image"]  # which a decision may have cost
    assert looked_at >= 0 if plan.adaptive else looked_at == 0


def test_macs_are_those_that_the_network_really_does(tiny_dit: DiT, tmp_path: Path) -> None:
    """Counted where linear layers run: of the rows of both halves, with a cache on them."""
    plan, generation = planned(tiny_dit, tmp_path, GUIDED, "method=reuse", "cache_ratio=0.3", INTERVAL, "cfg_cache=0.5")
    rows = {"all": 0, "blocks": 0}

    def count(_: object, given: tuple[Tensor, ...], *__: object) -> None:
        rows["all"] += len(given[0])

    def count_block(_: object, given: tuple[Tensor, ...], *__: object) -> None:
        rows["blocks"] += len(given[0])

    hooks = [tiny_dit.x_embedder.register_forward_hook(count)]
    hooks += [block.attn.register_forward_hook(count_block) for block in tiny_dit.blocks]
    try:
        _, cost = made(plan, generation)
    finally:
        for hook in hooks:
            hook.remove()
    assert plan.halves is not None
    evaluated = len(plan.halves.places)
    assert rows["all"] == 4 * (EVALUATIONS + evaluated)
    computed = rows["blocks"] / 4 / tiny_dit.depth
    assert cost["cache_ratio"] == pytest.approx(1 - computed / (2 * EVALUATIONS))
    cached = plan.of_unconditional().mask
    each = image_macs(tiny_dit, plan.mask, False) + image_macs(tiny_dit, cached, False)
    assert cost["macs_per_image"] == each


@pytest.mark.parametrize("count", [1, 2, 7, 20])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("start", [1, 3])
def test_the_unconditional_half_is_left_out_evenly(count: int, ratio: float, start: int) -> None:
    chosen = halves([True] * count, [False] * count, ratio, start)
    wanted = max(count - round(ratio * count), 1, min(start, count))
    assert len(chosen.places) == wanted
    assert chosen.places[:start] == list(range(min(start, count)))
    gaps = [b - a for a, b in pairwise([*chosen.places[start - 1 :], count])]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_cached_evaluations_go_with_the_one_before() -> None:
    """Shares are of what is computed, so that costs multiply; the first guided evaluation is always complete."""
    cached = [False, True] * 6
    chosen = halves([True] * 12, cached, 0.5)
    assert chosen.places == [0, 1, 4, 5, 8, 9]
    assert [i for i, measured in enumerate(chosen.measured) if measured] == [0, 4, 8]
    late = halves([False] * 3 + [True] * 6 + [False] * 3, cached, 0.5)
    assert late.places == [3, 6, 7]
    assert late.guided == (False,) * 3 + (True,) * 6 + (False,) * 3
    assert not halves([False] * 4, [False] * 4).places


def test_calibration_and_search_see_the_trajectories_of_the_interval(tiny_dit: DiT, tmp_path: Path) -> None:
    """What a feature cache stands in for is the same guidance without one."""
    settings = [GUIDED, INTERVAL, "method=searched", "schedule.search_evaluations=3", "schedule.search_samples=4"]
    plan, generation = planned(tiny_dit, tmp_path, *settings, "cache_ratio=0.5")
    way = compose_config([*settings, "evaluations=10", "calibration_samples=4", "seed=3"]).way
    calibration = calibration_of(way, generation, {}, str(tmp_path))
    without, _ = planned(tiny_dit, tmp_path, GUIDED, INTERVAL, "method=none")
    seeded = replace(generation, seed=calibration.seed)
    assert torch.equal(final_latents(calibration, None), made(without, seeded)[0])
    assert isinstance(plan.new_cache(), HalfCaches)
    assert calibration.key != calibration_of(replace(way, guidance_interval=None), generation, {}, "").key
