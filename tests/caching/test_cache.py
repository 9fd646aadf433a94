"""The cache inside the denoiser's forward pass."""

import torch
from torch import Tensor

from goc.caching.cache import FeatureCache
from goc.caching.predictor import GradientQueue, Predictor
from goc.caching.schedule import uniform
from goc.diffusion import NoiseSchedule, guided_denoiser, sample
from goc.models.dit import DiT

STEPS = 8


def trajectory(model: DiT, cache: FeatureCache | None) -> Tensor:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    schedule = NoiseSchedule.respaced(STEPS)
    guided = guided_denoiser(
        model if cache is None else lambda x, t, y: model(x, t, y, cache), schedule, torch.tensor([0, 3, 4]), 5, 1.5, 3
    )

    def denoise(x: Tensor, i: int) -> Tensor:
        if cache is not None:
            cache.begin_step(i)
        return guided(x, i)

    with torch.inference_mode():
        return torch.stack(list(sample(denoise, x, schedule)))


def test_ratio_zero_is_bit_identical_to_no_cache(tiny_dit: DiT) -> None:
    mask = uniform(STEPS, tiny_dit.depth, 0.0)
    cached = trajectory(tiny_dit, FeatureCache(mask, GradientQueue(mask, [1.2])))
    assert torch.equal(cached, trajectory(tiny_dit, None))


def test_steps_before_the_first_cached_one_are_bit_identical_and_later_ones_are_not(tiny_dit: DiT) -> None:
    mask = torch.zeros(STEPS, tiny_dit.depth, 2, dtype=torch.bool)
    mask[4, 1, 0] = True
    cached, full = trajectory(tiny_dit, FeatureCache(mask, GradientQueue(mask, [1.2]))), trajectory(tiny_dit, None)
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

        def predict(self, step: int, cell: tuple[int, int]) -> Tensor:
            predicted[step][cell] = True
            return super().predict(step, cell)

    watched: Predictor = Watched(mask, [1.0])
    trajectory(tiny_dit, FeatureCache(mask, watched))
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
        def predict(self, step: int, cell: tuple[int, int]) -> Tensor:
            return features[(step, *cell)]

    nothing = torch.zeros_like(mask)
    full = trajectory(tiny_dit, FeatureCache(nothing, Recorder(nothing, [])))
    assert torch.equal(trajectory(tiny_dit, FeatureCache(mask, Oracle(mask, []))), full)
