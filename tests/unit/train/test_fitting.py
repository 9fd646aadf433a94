"""Weights of each cell and shifts of the times: trained through what runs, in coordinates that their effect gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closeness import assert_near
from plans import planned

from goc.caching.anchored import Learned
from goc.caching.cache import ScheduledCache
from goc.config import compose_config
from goc.models.build import load_model
from goc.models.dit import DiT
from goc.models.schedules import Trained
from goc.planning.denoiser import calibration_of
from goc.planning.plan import Plan
from goc.sampling.calibrate import Calibration
from goc.sampling.search import final_latents
from goc.system.files import resolve
from goc.train import fitting
from goc.train.fitting import Coordinates, fit, jacobian, of_each_cell
from goc.train.learning import train, weighted_ends
from goc.train.starts import distance_of, start

pytestmark = pytest.mark.slow


def ready(model: DiT, folder: Path, *settings: str) -> tuple[Plan, Calibration, Trained]:
    """A plan, four calibration samples, and what a Taylor expansion does a little disturbed."""
    plan, generation = planned(model, folder, "cache_ratio=0.6", "predictor=taylor", *settings)
    calibration = replace(calibration_of(plan.way, generation, {}, str(folder)), samples=4)
    (weights, shifts), random = of_each_cell(plan, Trained(start(plan, 3))), torch.Generator().manual_seed(0)
    assert shifts is not None
    shifts[[i for i in range(1, len(shifts) - 1) if not plan.mask[i].any()]] = 0.3
    return plan, calibration, Trained(weights * (1 + 0.1 * torch.randn(weights.shape, generator=random)), shifts)


@pytest.mark.parametrize("settings", [[], ["site=stack"], ["cfg_scale=1.5"], ["sampler=unipc"], ["model=digits_flow"]])
def test_training_samples_as_running_does(tiny_dit: DiT, tmp_path: Path, settings: list[str]) -> None:
    plan, calibration, trained = ready(tiny_dit, tmp_path, *settings)
    times = trained.times(calibration.generation.solver.grid.times.tolist())

    def new_cache() -> ScheduledCache:
        return ScheduledCache(plan.mask, Learned(plan.mask, trained.weights), plan.site, times=times)

    def ends(given: Trained) -> torch.Tensor:
        moved = given.times(calibration.generation.solver.grid.times.tolist())
        return weighted_ends(plan, calibration.seeded(), range(4), given.weights, moved, keep=True)

    assert_near(ends(trained), final_latents(calibration, new_cache))
    same_for_all = Trained(trained.weights, torch.zeros_like(trained.shifts))
    assert (ends(trained) - ends(same_for_all)).abs().max() > 1e-4  # shifts do something
    assert_near(ends(same_for_all), ends(Trained(trained.weights)))


@pytest.mark.parametrize("settings", [["cfg_scale=1.5"], ["site=stack", "model=digits_flow"]])
def test_the_jacobian_is_that_of_the_ends_with_or_without_activations_kept(
    tiny_dit: DiT, tmp_path: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "TOGETHER", 4)
    plan, calibration, trained = ready(tiny_dit, tmp_path, *settings)
    targets = final_latents(calibration, None).clone()
    rows = jacobian(plan, calibration, trained, targets, keep=True)
    assert_near(jacobian(plan, calibration, trained, targets, keep=False), rows)
    move = 1e-2 * torch.randn(trained.weights.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ahead, behind = (
            weighted_ends(plan, calibration.seeded(), range(4), trained.weights + side * move,
                    trained.times(calibration.generation.solver.grid.times.tolist()), True)
            for side in (1, -1)
        )  # fmt: skip
    changed = ((ahead - behind) / 2).flatten(1) / targets.flatten(1).norm(dim=1)[:, None]
    random = torch.Generator().manual_seed(calibration.seed)
    for of_draw in (rows @ move.flatten().double()).view(fitting.DRAWS, 4):
        signs = torch.randint(0, 2, changed.shape, generator=random) * 2 - 1
        assert of_draw.tolist() == pytest.approx((signs * changed).sum(dim=1).tolist(), rel=0.05, abs=1e-4)


def test_coordinates_are_the_inverse_root_of_the_damped_square() -> None:
    rows = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    square = rows.T @ rows / len(rows)
    damped = square + fitting.DAMPING * torch.linalg.eigvalsh(square)[-1] * torch.eye(9)
    values, vectors = torch.linalg.eigh(damped)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    theta = torch.randn(9, generator=torch.Generator().manual_seed(1))
    assert_near(Coordinates(rows, torch.device("cpu"))(theta), (root @ theta.double()).float(), 1e-4)
    assert torch.equal(Coordinates(torch.zeros(2, 9), torch.device("cpu"))(theta), theta)


def test_it_comes_closer_than_weights_that_all_cells_share(tmp_path: Path) -> None:
    model = compose_config(["model=digits"]).measurement.model
    denoiser = load_model(model.shape(), resolve(model.checkpoint), model.objective).requires_grad_(False)
    plan, generation = planned(denoiser, tmp_path, "cache_ratio=0.6", "predictor=taylor")
    calibration = replace(calibration_of(plan.way, generation, {}, str(tmp_path)), samples=8)
    targets, begin = final_latents(calibration, None).clone(), Trained(start(plan, 3))

    def fitted() -> Trained:
        return fit(plan, calibration, begin, 12, 8, 0.02, True, None, targets)[0]

    trained = fitted()
    begun, ended = (distance_of(plan, one, calibration, range(8), targets) for one in (begin, trained))
    shared, _ = train(plan, calibration, 12, 8, 0.02, True, None, begin.weights, targets)
    assert ended < 0.9 * distance_of(plan, Trained(shared), calibration, range(8), targets) < begun
    assert trained.weights.shape == (len(plan.mask), 12, 2, 3)
    assert trained.weights.flatten(1).std(dim=1).max() > 0
    assert trained.shifts is not None
    moved = trained.shifts != 0
    assert moved.any()
    assert not (moved & plan.mask[:, 0, 0]).any()  # of cached steps
    assert not moved[[0, -1]].any()
    assert all(torch.equal(*parts) for parts in zip(trained, fitted(), strict=True))
