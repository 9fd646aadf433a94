"""The cache inside the denoiser's forward pass."""

import torch
from closeness import assert_near
from torch import Tensor

from goc.caching.cache import AdaptiveCache, ScheduledCache
from goc.caching.decision import TeaCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.caching.schedule import cached_steps_of, uniform, whole_steps
from goc.models.dit import DiT
from goc.models.network import BRANCHES, Terms
from goc.models.seen import Seen
from goc.sampling.guidance import guided_denoiser
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM, no_noise

STEPS = 8


def trajectory(model: DiT, cache: ScheduledCache | None) -> Tensor:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    schedule = NoiseSchedule.respaced(STEPS)
    guided = guided_denoiser(
        model if cache is None else lambda x, t, y: model(x, t, y, cache),
        schedule.times,
        torch.tensor([0, 3, 4]),
        5,
        1.5,
        3,
    )

    def denoise(x: Tensor, i: int) -> Tensor:
        if cache is not None:
            cache.begin_step(i)
        return guided(x, i)

    with torch.inference_mode():
        return torch.stack(list(DDIM(schedule).sample(denoise, x, no_noise)))


def test_ratio_zero_is_bit_identical_to_no_cache(tiny_dit: DiT) -> None:
    mask = uniform(STEPS, tiny_dit.depth, 0.0)
    cached = trajectory(tiny_dit, ScheduledCache(mask, GradientQueue(mask, [1.2])))
    assert torch.equal(cached, trajectory(tiny_dit, None))


def test_steps_before_the_first_cached_one_are_bit_identical_and_later_ones_are_not(tiny_dit: DiT) -> None:
    mask = torch.zeros(STEPS, tiny_dit.depth, 2, dtype=torch.bool)
    mask[4, 1, 0] = True
    cached, full = trajectory(tiny_dit, ScheduledCache(mask, GradientQueue(mask, [1.2]))), trajectory(tiny_dit, None)
    assert torch.equal(cached[:4], full[:4])
    assert not torch.equal(cached[4], full[4])


def test_cells_outside_the_mask_are_computed_and_those_inside_are_not(tiny_dit: DiT) -> None:
    torch.manual_seed(3)
    mask = torch.rand(STEPS, tiny_dit.depth, 2) < 0.5
    mask[0] = False
    predicted, stored = torch.zeros_like(mask), torch.zeros_like(mask)

    class Watched(GradientQueue):
        def store(self, step: int, cell: tuple[int, int], feature: Tensor) -> None:
            stored[step][cell] = True
            super().store(step, cell, feature)

        def predict(self, step: int, cell: tuple[int, int]) -> Terms:
            predicted[step][cell] = True
            return super().predict(step, cell)

    watched: Predictor = Watched(mask, [1.0])
    trajectory(tiny_dit, ScheduledCache(mask, watched))
    assert torch.equal(predicted, mask)
    assert torch.equal(stored, ~mask)


def test_a_predictor_that_knows_the_features_changes_nothing(tiny_dit: DiT) -> None:
    """Whatever is predicted takes the exact place of the branch: before its gate, in its block."""
    mask = uniform(STEPS, tiny_dit.depth, 0.5)
    features: dict[tuple[int, int, int], Tensor] = {}

    class Recorder(GradientQueue):
        def store(self, step: int, cell: tuple[int, int], feature: Tensor) -> None:
            features[(step, *cell)] = feature

    class Oracle(Recorder):
        def predict(self, step: int, cell: tuple[int, int]) -> Terms:
            return [(1.0, features[(step, *cell)])]

    nothing = torch.zeros_like(mask)
    full = trajectory(tiny_dit, ScheduledCache(nothing, Recorder(nothing, [])))
    assert_near(trajectory(tiny_dit, ScheduledCache(mask, Oracle(mask, []))), full)


def test_the_stack_site_replaces_all_blocks_by_one_cell(tiny_dit: DiT) -> None:
    mask = uniform(STEPS, 1, 0.5)[:, :1, :1]
    calls = []
    for block in tiny_dit.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    cache = ScheduledCache(mask, Reuse(mask), "stack")
    cached = trajectory(tiny_dit, cache)
    assert len(calls) == (STEPS - int(mask.sum())) * tiny_dit.depth * BRANCHES
    assert cache.peak_cache_tensors == 1
    full = trajectory(tiny_dit, None)
    assert torch.equal(cached[0], full[0])
    assert not torch.equal(cached[1], full[1])


def test_a_stack_predictor_that_knows_the_features_changes_nothing(tiny_dit: DiT) -> None:
    mask = uniform(STEPS, 1, 0.5)[:, :1, :1]
    features: dict[int, Tensor] = {}

    class Recorder(Reuse):
        def store(self, step: int, cell: tuple[int, int], feature: Tensor) -> None:
            features[step] = feature

    class Oracle(Recorder):
        def predict(self, step: int, cell: tuple[int, int]) -> Terms:
            return [(1.0, features[step])]

    nothing = torch.zeros_like(mask)
    full = trajectory(tiny_dit, ScheduledCache(nothing, Recorder(nothing), "stack"))
    assert torch.equal(full, trajectory(tiny_dit, None))
    assert_near(trajectory(tiny_dit, ScheduledCache(mask, Oracle(mask), "stack")), full)


def adaptive(model: DiT, threshold: float, predictor=Reuse) -> tuple[AdaptiveCache, Tensor]:
    possible = whole_steps(range(1, STEPS - 1), STEPS, model.depth)
    cache = AdaptiveCache(possible, predictor(possible), TeaCache(threshold))
    return cache, trajectory(model, cache)


def test_an_adaptive_cache_skips_more_with_a_higher_threshold_and_keeps_both_ends(tiny_dit: DiT) -> None:
    skipped = [cached_steps_of(adaptive(tiny_dit, threshold)[0].mask) for threshold in (0.0, 0.3, 1.5, 1e9)]
    assert skipped[0] == []
    assert skipped[-1] == list(range(1, STEPS - 1))
    counts = [len(steps) for steps in skipped]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2


def test_an_adaptive_cache_skips_exactly_while_the_accumulated_change_is_below_the_threshold() -> None:
    possible = whole_steps(range(1, 7), 8, 1)
    cache, nothing = AdaptiveCache(possible, Reuse(possible), TeaCache(0.5)), torch.empty(0)
    for step, level in enumerate([1.0, 1.2, 1.44, 1.8, 1.9, 1.9, 4.0, 4.0]):
        cache.begin_step(step)
        cache.decide(Seen(nothing, nothing, nothing, lambda level=level: torch.full((2, 2), level)))
        for branch in range(2):
            if cache.lookup(0, branch) is None:
                cache.store(0, branch, torch.zeros(1))
    # changes 0.2, 0.2, 0.25 (sum 0.65: computed), 0.06, 0, 1.1 (computed), 0 but the last step is always computed
    assert cached_steps_of(cache.mask) == [1, 2, 4, 5]


def test_an_adaptive_run_is_the_fixed_run_of_the_mask_it_found(tiny_dit: DiT) -> None:
    for make in (Reuse, lambda mask: GradientQueue(mask, [1.0, 0.5]), lambda mask: Taylor(mask, 2)):
        cache, states = adaptive(tiny_dit, 0.5, make)
        assert torch.equal(states, trajectory(tiny_dit, ScheduledCache(cache.mask, make(cache.mask))))
