"""Trajectories of the authors' own implementations (shared/oracles*/README.md), against this project's on any device.

tests/unit/test_oracles.py holds all of them on the CPU; scripts/gpu_check.py on a GPU.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from goc.caching import schedule
from goc.caching.cache import ScheduledCache, StepCache
from goc.caching.expansion import Taylor
from goc.caching.inflection import correct_at
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.check import oracle_tokens
from goc.check.setting import Outcome, Setting, Table
from goc.methods import Cells
from goc.methods.predictors import GradientQueueConfig
from goc.models.build import prepare
from goc.models.dit import DiT
from goc.models.routers import load_router
from goc.sampling.guidance import guided_denoiser
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM, DDPM, Euler, Heun, Midpoint, Solver
from goc.system.device import choose_device, configure
from goc.system.errors import GocError
from goc.system.files import PACKAGE

TOLERANCE, CLOSE_TOLERANCE = 1e-3, 1e-4  # of any value of a trajectory, in fp32
FLOW_SOLVERS: dict[str, Callable[[int], Solver]] = {"euler": Euler, "heun2": Heun, "midpoint": Midpoint}
SHARED = PACKAGE.parent.parent / "shared"  # beside a checkout; elsewhere --oracles names them
FOLDERS = tuple(SHARED / name for name in ("oracles", "oracles_flow", "oracles_tokens"))


def oracle_files(folders: Sequence[Path]) -> list[Path]:
    """The cases of folders of reference trajectories; published routers are in data/ beside a folder."""
    files = (path for folder in folders for path in sorted(folder.glob("*.safetensors")))
    return [path for path in files if not path.name.startswith("weights_")]


def solver_of(case: dict[str, Any]) -> Solver:
    """The solver that a case's metadata describes."""
    if case["method"] == "flow":
        return FLOW_SOLVERS[case["sampler"]](case["intervals"])
    respaced = NoiseSchedule.respaced(case["steps"])
    return DDPM(respaced) if case["method"] == "none_ddpm" else DDIM(respaced)


def mask_of(case: dict[str, Any], depth: int, routers: Path) -> Tensor:
    """The schedule that a case's metadata describes, bool [evaluations, depth, 2]."""
    steps = len(solver_of(case).grid)
    if case["method"] == "fora":
        return schedule.fora(steps, depth, case["interval"])
    if case["method"] == "taylor":
        return schedule.taylorseer(steps, depth, case["interval"])
    if case["method"] in (*oracle_tokens.BY_TOKENS, oracle_tokens.VERIFIED):
        return oracle_tokens.mask_of(case, depth)
    if case["method"] in ("l2c", "l2c_goc"):
        return schedule.l2c(load_router(routers / case["router"], steps, depth), case["threshold"])
    return schedule.whole_steps(case.get("cached_steps", []), steps, depth)


def caches_of(case: dict[str, Any], data: dict[str, Tensor], mask: Tensor) -> Sequence[StepCache | None]:
    """Every cache that must give the case's trajectory; None: none at all."""
    if case["method"] == oracle_tokens.VERIFIED:
        return oracle_tokens.verified(case, mask)
    if case["method"] in oracle_tokens.BY_TOKENS:
        return [oracle_tokens.cache_of(case, data, mask)]
    return [None if predictor is None else ScheduledCache(mask, predictor) for predictor in predictors_of(case, mask)]


def predictors_of(case: dict[str, Any], mask: Tensor) -> list[Predictor | None]:
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
    queue = settings.build(Cells(mask, correct, gradient_weights=[case["eta"]]))
    return [queue, Reuse(mask)] if case["eta"] == 0 else [queue]


def trajectory(model: DiT, case: dict[str, Any], data: dict[str, Tensor], cache: StepCache | None) -> Tensor:
    """The project's x after each step, [steps, N, C, H, W], from a case's noise; all on the device of its data."""
    n, solver = len(data["labels"]), solver_of(case)
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


def weights_of(path: Path, case: dict[str, Any]) -> Path:
    """The weights of a case's model: beside it, or in the folder of the oracles that were there first."""
    beside = path.parent / case["weights"]
    return beside if beside.is_file() else path.parent.parent / FOLDERS[0].name / case["weights"]


def agreement(path: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """For each cache that must give a case's trajectory: its largest difference to it, and what is allowed.

    different: what else is not as the case says; empty: nothing.
    """
    with safe_open(path, framework="pt") as file:
        case = json.loads(file.metadata()["case"])
    data = {name: tensor.to(device) for name, tensor in load_file(path).items()}
    model = DiT(**case["model"])
    model.load_state_dict(load_file(weights_of(path, case)))
    prepare(model, device, None, compiled=False)
    mask = mask_of(case, model.depth, path.parent.parent / "data")
    for cache in caches_of(case, data, mask):
        difference = (trajectory(model, case, data, cache) - data["trajectory"]).abs().max().item()
        predictor = cache.predictor if isinstance(cache, ScheduledCache) else cache
        close = case["method"] == "flow" or "block_kinds" in data
        yield {
            "oracle": path.stem,
            "predictor": "none" if predictor is None else type(predictor).__name__,
            "largest_difference": difference,
            "different": oracle_tokens.disagreement(cache, data),
            "tolerance": CLOSE_TOLERANCE if close else TOLERANCE,
        }


def check(setting: Setting, folders: Sequence[Path]) -> Outcome:
    """Every oracle on the setting's device in fp32, with tf32 off."""
    device = choose_device(setting.device)
    configure(device, "fp32", deterministic=False, threads=None)
    files = oracle_files(folders)
    if not files:
        raise GocError(f"no oracles in {', '.join(map(str, folders))}: name their folder with --oracles")
    frame = pd.DataFrame(row for path in files for row in agreement(path, device))
    close = frame["largest_difference"] <= frame["tolerance"]  # not if it is not a number
    frame["agrees"] = close & (frame["different"] == "")
    wrong = frame[~frame["agrees"]]
    failures = [
        f"{row.oracle}, {row.predictor}: {row.largest_difference:.3g} from the authors', allowed {row.tolerance:g}"
        f"{row.different and '; '}{row.different}"
        for row in wrong.itertuples()
    ]
    table = Table(
        "oracles",
        "The authors' trajectories",
        "Largest difference of any value of any step of a sampling trajectory between this project and the output of "
        "the method's public implementation, whose values are of size 1; lower is better. fp32 with tf32 off. The "
        "references were made on a CPU. A method differs from the uncached trajectory by 0.05 to 0.6 in the last step.",
        frame,
        {
            "oracle": "case",
            "predictor": "computed with",
            "largest_difference": "largest difference ↓",
            "tolerance": "allowed",
            "agrees": "agrees",
        },
    )
    worst = frame["largest_difference"].max()
    finding = f"{len(frame) - len(wrong)} of {len(frame)} agree; the largest difference of all is {worst:.3g}."
    return Outcome(table, failures, [finding])
