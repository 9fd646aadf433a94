"""Agreement with the authors' own implementations, number by number (shared/oracles*/README.md)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import oracle_folders
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from goc.caching import schedule
from goc.caching.cache import ScheduledCache
from goc.caching.expansion import Taylor
from goc.caching.inflection import correct_at
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.methods import GradientQueueConfig
from goc.models.dit import DiT
from goc.models.routers import load_router
from goc.sampling.guidance import guided_denoiser
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM, DDPM, Euler, Heun, Midpoint, Solver

TOLERANCE, FLOW_TOLERANCE = 1e-3, 1e-4
FLOW_SOLVERS: dict[str, Callable[[int], Solver]] = {"euler": Euler, "heun2": Heun, "midpoint": Midpoint}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [path for folder in oracle_folders(metafunc.config) for path in sorted(folder.glob("*.safetensors"))]
    cases = [path for path in cases if not path.name.startswith("weights_")]
    metafunc.parametrize("path", cases or [None], ids=[path.stem for path in cases] or ["no oracles"])


def solver_of(case: dict) -> Solver:
    """The solver that a case's metadata describes."""
    if case["method"] == "flow":
        return FLOW_SOLVERS[case["sampler"]](case["intervals"])
    schedule = NoiseSchedule.respaced(case["steps"])
    return DDPM(schedule) if case["method"] == "none_ddpm" else DDIM(schedule)


def mask_of(case: dict, depth: int, routers: Path) -> Tensor:
    """The schedule that a case's metadata describes, bool [evaluations, depth, 2]."""
    steps = len(solver_of(case).grid)
    if case["method"] == "fora":
        return schedule.fora(steps, depth, case["interval"])
    if case["method"] == "taylor":
        return schedule.taylorseer(steps, depth, case["interval"])
    if case["method"] in ("l2c", "l2c_goc"):
        return schedule.l2c(load_router(routers / case["router"], steps, depth), case["threshold"])
    return schedule.whole_steps(case.get("cached_steps", []), steps, depth)


def predictors_of(case: dict, mask: Tensor) -> list[Predictor | None]:
    """Every predictor that must give the case's trajectory."""
    method = case["method"]
    if method in ("none", "none_ddpm", "flow"):
        return [None, Reuse(mask), GradientQueue(mask, [1.0]), Taylor(mask, 2)]
    if method in ("fora", "l2c"):
        return [Reuse(mask), GradientQueue(mask, []), Taylor(mask, 0)]
    if method == "taylor":
        return [Taylor(mask, case["max_order"])]
    correct = correct_at(case["goc_steps"], tuple(mask.shape))
    settings = GradientQueueConfig(correct_scope="block")  # as the authors' code does
    queue = settings.build(mask, [case["eta"]], correct, None)
    return [queue, Reuse(mask)] if case["eta"] == 0 else [queue]


def trajectory(model: DiT, case: dict, data: dict[str, Tensor], predictor: Predictor | None, mask: Tensor) -> Tensor:
    n, solver = len(data["labels"]), solver_of(case)
    cache = None if predictor is None else ScheduledCache(mask, predictor)
    guided = guided_denoiser(
        model if cache is None else lambda x, t, y: model(x, t, y, cache),
        solver.grid.times,
        data["labels"],
        case["model"]["num_classes"],
        case["cfg_scale"],
        3,
    )

    def denoise(x: Tensor, i: int) -> Tensor:
        if cache is not None:
            cache.begin_step(i)
        return guided(x, i)

    noises = iter(data.get("noise", torch.empty(0)))
    with torch.inference_mode():
        return torch.stack(list(solver.sample(denoise, data["noise_init"], lambda: next(noises)[:n])))


def test_trajectory_equals_the_authors(path: Path | None) -> None:
    if path is None:
        pytest.skip("the folder given by --oracles is absent")
    with safe_open(path, framework="pt") as file:
        case = json.loads(file.metadata()["case"])
    data = load_file(path)
    model = DiT(**case["model"])
    model.load_state_dict(load_file(path.parent / case["weights"]))
    mask = mask_of(case, model.depth, path.parent.parent / "data")
    for predictor in predictors_of(case, mask):
        difference = (trajectory(model, case, data, predictor, mask) - data["trajectory"]).abs().max().item()
        assert difference <= (FLOW_TOLERANCE if case["method"] == "flow" else TOLERANCE)
