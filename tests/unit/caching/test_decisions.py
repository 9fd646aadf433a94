"""Rules that decide as it runs: each against its definition run by hand, and a sample alone against one in a batch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from closeness import assert_near
from torch import Tensor

from goc.caching.cache import AdaptiveCache
from goc.caching.decision import Decision, DiCache, EasyCache, FirstBlock, SeaCache, TeaCache, Verify, wiener
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.caching.probe import ProbeAligned
from goc.caching.schedule import cached_steps_of, whole_steps
from goc.models.counting import counted_macs
from goc.models.dit import DiT
from goc.models.seen import Seen
from goc.sampling.generation import Generation
from goc.sampling.noise import NoiseSchedule
from goc.sampling.pricing import spread
from goc.sampling.solvers import DDIM

STEPS = 12
GRID = NoiseSchedule.respaced(STEPS)
NOISE = np.exp(-GRID.log_snr).tolist()
RULES: dict[str, tuple[Callable[[], Decision], Callable[[Tensor], Predictor]]] = {
    "teacache": (lambda: TeaCache(1.0), Reuse),
    "first_block": (lambda: FirstBlock(2.0), Reuse),
    "first_two": (lambda: FirstBlock(2.0, 2), lambda mask: Taylor(mask, 1)),
    "dicache": (lambda: DiCache(0.6), ProbeAligned),
    "seacache": (lambda: SeaCache(0.3, NOISE, 3.0, 2), lambda mask: Taylor(mask, 1)),
    "easycache": (lambda: EasyCache(1.0), Reuse),
    "verify": (lambda: Verify(1.5, 0.5, 1, 4, STEPS), lambda mask: Taylor(mask, 2)),
    "verify_queue": (lambda: Verify(1.5, 0.5, 1, 4, STEPS), lambda mask: GradientQueue(mask, [1.0, 0.5])),
}


def generation(model: DiT, name: str, per_sample: bool = True, scale: float = 1.5) -> Generation:
    rule, predictor = RULES[name]
    mask, site = whole_steps(range(1, STEPS - 1), STEPS, model.depth), "branch"
    if not name.startswith("verify"):
        mask, site = mask[:, :1, :1], "stack"

    def new_cache() -> AdaptiveCache:
        return AdaptiveCache(mask, predictor(mask), rule(), site, per_sample)

    return Generation(model, DDIM(GRID), scale, 1, 3, lambda x: x, torch.device("cpu"), new_cache)


def run(made: Generation, indices: range) -> tuple[Tensor, Tensor]:
    """Samples, and what was skipped of each."""
    cache = made.batch_cache(len(indices))
    with torch.inference_mode():
        _, steps = made.trajectory(indices, cache)
        *_, x = steps
    return x, (cache.mask if cache.mask.ndim == 4 else cache.mask[None])[:, :, 0, 0]


@pytest.mark.parametrize("name", list(RULES))
def test_a_sample_is_what_it_is_whatever_is_beside_it(name: str, tiny_dit: DiT) -> None:
    made = generation(tiny_dit, name)
    together, masks = run(made, range(6))
    alone = [run(made, range(i, i + 1)) for i in range(6)]
    assert_near(together, torch.cat([x for x, _ in alone]))
    assert torch.equal(masks, torch.cat([mask for _, mask in alone]))
    assert 0 < masks.float().mean() < 1
    assert not masks[:, [0, -1]].any()
    assert len(masks.unique(dim=0)) > 1
    uncached = run(generation(tiny_dit, "teacache"), range(1))[0]
    assert not torch.equal(together[:1], uncached) or name == "teacache"


@pytest.mark.parametrize("name", list(RULES))
def test_a_batch_of_one_decides_alike_for_its_sample_and_for_all_of_it(name: str, tiny_dit: DiT) -> None:
    (alone, mask), (batch, of_batch) = (run(generation(tiny_dit, name, each), range(2, 3)) for each in (True, False))
    assert torch.equal(mask, of_batch)
    assert_near(alone, batch)


@pytest.mark.parametrize("name", list(RULES))
def test_what_a_rule_looks_at_is_in_the_macs_that_torch_counts(name: str, tiny_dit: DiT) -> None:
    made = generation(tiny_dit, name, scale=1.0)
    cache = made.batch_cache(1)
    counted = counted_macs(lambda: list(made.trajectory(range(1), cache)[1]))
    assert made.cost(cache)["macs_per_image"] == pytest.approx(counted, rel=1e-12)


def test_checked_blocks_count_as_computed(tiny_dit: DiT) -> None:
    made = generation(tiny_dit, "verify")
    cache = made.batch_cache(6)
    with torch.inference_mode():
        list(made.trajectory(range(6), cache)[1])
    checks = torch.tensor([looked.last_blocks for looked in cache.looked])
    assert checks.min() > 0
    expected = cache.mask.double().flatten(1).mean(1) - checks / (tiny_dit.depth * STEPS)
    ratios = made.cost(cache)["cache_ratios"]
    assert ratios == pytest.approx(expected.tolist())
    quartiles = {name: np.quantile(ratios, at) for name, at in [("min", 0), ("q25", 0.25), ("q75", 0.75), ("max", 1)]}
    statistics = spread(ratios)
    assert {name: statistics[f"cache_ratio_{name}"] for name in quartiles} == pytest.approx(quartiles)
    assert statistics["cache_ratio_std"] == pytest.approx(np.std(ratios))


def test_a_prediction_is_checked_after_some_and_computed_after_an_error_or_after_many() -> None:
    """Errors are 1 in the steps named as wrong, where the rule tolerates 0.3; in others 0."""

    def skipped(wrong: set[int], least: int, most: int) -> list[int]:
        rule, x, steps = Verify(0.3, 1.0, least, most, 20), torch.ones(1, 2, 3), []
        for step in range(1, 20):
            (skips,) = rule.allows(step, Seen(x, x, x, lambda: x))
            rule.done([skips])
            steps += [step] if skips else []
            if skips and rule.checks(0):
                rule.checked([0], x * (2 if step in wrong else 1), x)
        return steps

    assert skipped(set(), 2, 4) == [step for step in range(1, 20) if step % 5]
    assert skipped({3}, 2, 4) == [step for step in range(1, 20) if step not in (4, 9, 14, 19)]
    assert skipped({2}, 2, 4) == skipped(set(), 2, 4), "the second prediction is not checked"
    assert skipped({4}, 2, 4) == skipped(set(), 2, 4), "and after the fourth a step is computed anyway"
    assert skipped(set(range(20)), 1, 9) == [step for step in range(1, 20) if step % 3]


def test_samples_of_a_batch_differ_in_what_is_skipped_and_its_cost_says_how(tiny_dit: DiT) -> None:
    made = generation(tiny_dit, "first_block")
    cache = made.batch_cache(12)
    with torch.inference_mode():
        list(made.trajectory(range(12), cache)[1])
    cost = made.cost(cache)
    assert len(set(cost["cache_ratios"])) > 1
    assert cost["cache_ratio"] == pytest.approx(np.mean(cost["cache_ratios"]))
    nothing = made.cost(None)["macs_per_image"]
    # of a depth of d blocks, d - 1 are skipped
    skipped = (tiny_dit.depth - 1) / tiny_dit.depth
    assert cost["cache_ratio"] == pytest.approx(cache.mask.double().mean().item() * skipped)
    assert 0 < 1 - cost["macs_per_image"] / nothing < cost["cache_ratio"]


def by_hand(model: DiT, name: str, index: int) -> tuple[Tensor, list[int]]:
    """One sample without guidance, its rule written out; the samples, and the steps that were skipped."""
    labels, gaussian = generation(model, name, scale=1.0).drawn([index])
    state: dict[str, Tensor] = {}
    skipped: list[int] = []
    total, rate = 0.0, None

    def d(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().mean() / b.abs().mean())

    def network(x: Tensor, step: int) -> Tensor:
        nonlocal total, rate
        t = torch.as_tensor(GRID.times[step : step + 1])
        free = 0 < step < STEPS - 1
        if name == "easycache":
            if rate is not None:
                total += rate * float((x - state["before"]).abs().mean() / state["o"].abs().mean())
            skip = free and rate is not None and total < 1.0
            state["before"] = x
            if skip:
                skipped.append(step)
                held = state["full"].clone()
                held[:, :2] += x - state["x"]
                return held
            total, output = 0.0, model(x, t, labels)
            if "o" in state:
                rate = float((output[:, :2] - state["o"]).abs().mean() / (x - state["x"]).abs().mean())
            state.update(x=x, o=output[:, :2], full=output)
            return output
        h = model.embed(x)
        activated = torch.nn.functional.silu(model.t_embedder(t) + model.y_embedder(labels))
        modulation = model.modulation(activated)
        first = h.clone()
        h = model.computed(h, modulation, range(1))
        probe = h - first
        skip = free and "probe" in state and d(probe, state["probe"]) <= 2.0
        if skip:
            skipped.append(step)
            out = h + state["others"]
        else:
            out = model.computed(h.clone(), modulation, range(1, model.depth))
            state.update(probe=probe, others=out - h)
        return model.unpatchify(model.final_layer(out, activated))

    with torch.inference_mode():
        *_, x = DDIM(GRID).sample(network, gaussian(), gaussian)
    return x, skipped


@pytest.mark.parametrize("name", ["first_block", "easycache"])
def test_a_rule_does_what_its_definition_says(name: str, tiny_dit: DiT) -> None:
    made = generation(tiny_dit, name, scale=1.0)
    for index in range(3):
        x, mask = run(made, range(index, index + 1))
        expected, skipped = by_hand(tiny_dit, name, index)
        assert torch.nonzero(mask[0]).flatten().tolist() == skipped
        assert_near(x, expected)


def test_the_probe_says_how_far_the_last_residuals_go_on() -> None:
    """Residuals that move along a line, as the probe does, are met between once and one and a half times as far."""
    mask = torch.tensor([False, False, True, True]).reshape(4, 1, 1)
    predictor, zero = ProbeAligned(mask), torch.zeros(1, 3)
    slope = torch.tensor([[1.0, -2.0, 0.5]])

    def see(level: float) -> None:
        predictor.see(0, Seen(zero, zero, level * slope, lambda: zero))

    for step, level in enumerate((1.0, 2.0)):
        see(level)
        predictor.store(step, (0, 0), 10 * level * slope)
    for level, met in ((2.2, 2.2), (2.5, 2.5), (3.5, 2.5), (1.5, 2.0)):
        see(level)
        total = sum(weight * tensor for weight, tensor in predictor.predict(2, (0, 0)))
        assert_near(total, 10 * met * slope)


@pytest.mark.parametrize("noise", [0.01, 1.0, 50.0])
def test_the_filter_is_that_of_diffusers(noise: float) -> None:
    from diffusers.hooks.sea_cache import _apply_sea_filter

    latents = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    ours = wiener(latents, noise, 3.0)
    sigma = noise / (1 + noise)
    for row, filtered in zip(latents, ours, strict=True):
        assert_near(filtered, _apply_sea_filter(row.movedim(0, -1), sigma, 3.0).movedim(-1, 0), 1e-5)


def test_seacache_skips_no_more_in_a_row_than_it_may() -> None:
    possible = whole_steps(range(1, 19), 20, 1)[:, :, :1]
    rule = SeaCache(1e9, [1.0] * 20, 3.0, 2)
    cache = AdaptiveCache(possible, Reuse(possible), rule, "stack")
    x = torch.randn(1, 1, 4, 4)
    for step in range(20):
        cache.begin_step(step)
        cache.decide(Seen(x, x, x, lambda: x))
    assert cached_steps_of(cache.mask) == [step for step in range(1, 19) if step % 3]
