"""Agreement with the authors' own implementations, number by number (shared/oracles/README.md)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from goc.caching.cache import FeatureCache
from goc.caching.inflection import correct_at
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.caching.schedule import fora, whole_steps
from goc.diffusion import NoiseSchedule, guided_denoiser, sample
from goc.models.dit import DiT

TOLERANCE = 1e-3

UNCACHED = ("none", "none_ddpm")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder: Path = metafunc.config.getoption("--oracles")
    cases = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("weights_"))
    metafunc.parametrize("path", cases or [None], ids=[path.stem for path in cases] or ["no oracles"])


def mask_of(case: dict, depth: int) -> Tensor:
    if case["method"] == "fora":
        return fora(case["steps"], depth, case["interval"])
    return whole_steps(case.get("cached_steps", []), case["steps"], depth)


def predictor_of(case: dict, mask: Tensor) -> Predictor | None:
    if case["method"] in UNCACHED:
        return None
    if case["method"] == "fora":
        return Reuse(mask)
    return GradientQueue(mask, [case["eta"]], correct_at(case["goc_steps"], tuple(mask.shape)))


def trajectory(model: DiT, case: dict, data: dict[str, Tensor], predictor: Predictor | None, mask: Tensor) -> Tensor:
    n, schedule = len(data["labels"]), NoiseSchedule.respaced(case["steps"])
    cache = None if predictor is None else FeatureCache(mask, predictor)
    guided = guided_denoiser(
        model if cache is None else lambda x, t, y: model(x, t, y, cache),
        schedule,
        data["labels"],
        case["model"]["num_classes"],
        case["cfg_scale"],
        3,
    )

    def denoise(x: Tensor, i: int) -> Tensor:
        if cache is not None:
            cache.begin_step(i)
        return guided(x, i)

    sampler = "ddpm" if case["method"] == "none_ddpm" else "ddim"
    with torch.inference_mode():
        steps = sample(denoise, data["noise_init"], schedule, sampler, lambda i: data["noise"][i, :n])
        return torch.stack(list(steps))


def test_trajectory_equals_the_authors(path: Path | None) -> None:
    if path is None:
        pytest.skip("the folder given by --oracles is absent")
    with safe_open(path, framework="pt") as file:
        case = json.loads(file.metadata()["case"])
    if case["method"] not in (*UNCACHED, "goc", "fora"):
        pytest.skip(f"method {case['method']} is not implemented yet")
    data = load_file(path)
    model = DiT(**case["model"])
    model.load_state_dict(load_file(path.parent / case["weights"]))
    mask = mask_of(case, model.depth)
    predictors = [predictor_of(case, mask)]
    if case.get("eta") == 0:
        predictors.append(Reuse(mask))
    for predictor in predictors:
        difference = (trajectory(model, case, data, predictor, mask) - data["trajectory"]).abs().max().item()
        assert difference <= TOLERANCE
