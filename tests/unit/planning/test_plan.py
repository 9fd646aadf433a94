"""Every method of the shelf on every kind of solver: a mask's first axis is the network evaluation."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closeness import assert_near
from composing import config_of
from plans import EVALUATIONS, planned
from torch import Tensor

from goc.methods import METHODS
from goc.models.build import load_model
from goc.models.dit import DiT
from goc.models.network import BRANCHES
from goc.models.routers import save_router
from goc.models.schedules import write_schedule
from goc.planning.denoiser import calibration_of, make_plan
from goc.runs.denoiser import uncached_generation
from goc.sampling.generation import Generation
from goc.sampling.search import mean_distance
from goc.system.errors import ConfigError, GocError
from goc.system.files import resolve

pytestmark = pytest.mark.slow

SOLVERS = {
    "euler": ["model=digits_flow"],
    "heun": ["model=digits_flow", "sampler=heun"],
    # which caches cannot tell from ddim: a few are enough
    "unipc": ["sampler=unipc", "sampler.spacing=logsnr"],
    "dpm_solver": ["sampler=dpm_solver", "sampler.order=3"],
}
MULTISTEP = ("unipc", "dpm_solver")
ONE_EVALUATION = ("l2c", "l2c_goc", "teacache", "first_block", "dicache", "seacache", "easycache", "speca",
                  "toca", "duca")  # fmt: skip
FEW = (
    "reuse",
    "goc",
    "goc_logsnr",
    "taylorseer",
    "taylorseer_lite_logsnr",
    "smoothcache",
    "l2c",
    "teacache",
    "searched",
)


def write_weights(path: Path, **trained_for: object) -> Path:
    """Learned weights for the first and the sixth evaluation computed, trained for what `planned` runs or otherwise."""
    planned_for = {"site": "branch", "model_sha256": None, "sampler": None, "steps": None, "cfg_scale": None}
    rows = {str(step): [1.1, -0.1 if step > 5 else 0.0, 0.0] for step in range(EVALUATIONS) if step not in (0, 5)}
    trained = {**planned_for, "cfg_channels": None, **trained_for}
    write_schedule(path, EVALUATIONS, (0, 5), trained_for=trained, weights=rows)
    return path


def latents(generation: Generation) -> Tensor:
    made, _ = generation.make(range(4))
    return made["latents"]


@pytest.mark.parametrize(
    ("method", "solver"),
    [(method, solver) for method in METHODS for solver in SOLVERS
     if method != "none" and (solver not in MULTISTEP or method in FEW)],
)  # fmt: skip
def test_every_method_caches_evaluations_of_every_solver(
    tiny_dit: DiT, tmp_path: Path, method: str, solver: str
) -> None:
    settings = [*SOLVERS[solver], f"method={method}"]
    if method in ONE_EVALUATION and solver == "heun":
        with pytest.raises(ConfigError, match=r"schedule=\w+: not supported with sampler=heun"):
            planned(tiny_dit, tmp_path, *settings)
        return
    if method.startswith("l2c"):
        logits = torch.randn(EVALUATIONS, tiny_dit.depth, BRANCHES, generator=torch.Generator().manual_seed(0))
        save_router(tmp_path / "router.pt", logits, argparse.Namespace())
        settings.append(f"schedule.router={tmp_path / 'router.pt'}")
    if method == "clusca":
        settings.append("selection.clusters=3")  # of 4 tokens
    if method.startswith(("searched", "budcache", "halving")):
        settings += ["schedule.search_evaluations=3", "schedule.search_samples=2"]
    if method.endswith("learned"):
        weights = write_weights(tmp_path / "weights.json", sampler=None)
        settings += [f"schedule.path={weights}", f"predictor.path={weights}"]
    if method == "front":
        content = json.loads(write_weights(tmp_path / "weights.json", sampler=None).read_text())
        entry = {key: content.pop(key) for key in ("computed", "weights")}
        (tmp_path / "front.json").write_text(json.dumps({**content, "front": {"2": entry}}))
        settings.append(f"schedule.path={tmp_path / 'front.json'}")
    plan, generation = planned(tiny_dit, tmp_path, *settings)
    assert len(plan.mask) == len(generation.solver.grid) == EVALUATIONS
    assert plan.mask.any()
    made, cache = replace(generation, new_cache=plan.new_cache).make(range(4))
    assert cache.mask.any()  # an adaptive one is decided as it runs
    assert torch.isfinite(made["latents"]).all()
    assert not torch.equal(made["latents"], latents(generation))
    assert generation.cost(cache)["macs_per_image"] < generation.cost(None)["macs_per_image"]


@pytest.mark.parametrize(("settings", "says"), [
    (("method=dpcache", "cache_ratio=0.8"),
     r"schedule\.first_steps=3: must be at most 2, the steps that cache_ratio=0\.8 leaves computed"),
    (("method=l2p", "schedule=smoothcache", "site=branch"),
     "predictor=l2p: must have a schedule of whole steps, not smoothcache"),
])  # fmt: skip
def test_what_no_plan_can_be_made_of_is_one_line(
    tiny_dit: DiT, tmp_path: Path, settings: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        planned(tiny_dit, tmp_path, *settings)


def test_fitted_weights_are_of_the_calibrations_samples_and_part_of_the_plan(tiny_dit: DiT, tmp_path: Path) -> None:
    plan, again, other = (
        planned(tiny_dit, tmp_path, "method=l2p", f"calibration_seed={seed}")[0] for seed in (1, 1, 2)
    )
    assert plan.digest() == again.digest() != other.digest()
    assert plan.learned is not None
    assert torch.equal(plan.learned.weights, plan.learned.weights.tril(-1))


def test_a_pole_ends_a_run_with_what_to_try(tiny_dit: DiT, tmp_path: Path) -> None:
    write_schedule(tmp_path / "pole.json", EVALUATIONS, (0, 3, 4))
    plan, generation = planned(tiny_dit, tmp_path, "method=chebbooster", "schedule=dynamic",
                               f"schedule.path={tmp_path / 'pole.json'}")  # fmt: skip
    hint = plan.way.predictor.divergence_hint
    with pytest.raises(GocError, match=r"not finite after step 6 of 10 .*pole there: try predictor\.length=2"):
        replace(generation, new_cache=plan.new_cache, divergence_hint=hint).make(range(2))


def test_a_clock_that_stands_still_between_two_evaluations_gives_plain_reuse_there(
    tiny_dit: DiT, tmp_path: Path
) -> None:
    """Heun's corrector and the next predictor are at one time: nothing has changed by then, so nothing is corrected."""
    heun = [*SOLVERS["heun"], "cache_ratio=0.4", "inflection_threshold=null"]  # caches 1, 3, 5, 7: the correctors
    plan, generation = planned(tiny_dit, tmp_path, *heun, "method=goc_logsnr")
    mask = torch.zeros_like(plan.mask)
    mask[2::2] = True  # the predictors, each at the time of the corrector before it
    plan, reuse = (
        replace(chosen, mask=mask) for chosen in (plan, planned(tiny_dit, tmp_path, *heun, "method=reuse")[0])
    )
    gradient, plain = (latents(replace(generation, new_cache=chosen.new_cache)) for chosen in (plan, reuse))
    assert_near(gradient, plain)


@pytest.fixture(scope="module")
def digits() -> DiT:
    model = config_of("model=digits").measurement.model
    return load_model(model.shape(), resolve(model.checkpoint), model.objective)


@pytest.mark.parametrize("site", ["branch", "stack"])
@pytest.mark.parametrize("ratio", [0.67, 0.8])
def test_beyond_half_the_anchored_queue_is_closer_than_reuse_and_the_published_one_is_not(
    digits: DiT, tmp_path: Path, site: str, ratio: float
) -> None:
    def distance(*settings: str) -> float:
        config = config_of(*settings, f"site={site}", f"cache_ratio={ratio}", "calibration_samples=4", "seed=3")
        generation = uncached_generation(config.measurement, config.way, digits, torch.device("cpu"))
        calibration = calibration_of(config.way, generation, {}, str(tmp_path / site))
        plan = make_plan(config.way, config.measurement.model, calibration)
        return mean_distance(latents(replace(generation, new_cache=plan.new_cache)), latents(generation)).item()

    anchored, reuse, published = (distance(f"method={name}") for name in ("goc_anchored", "reuse", "goc"))
    assert anchored < reuse < published


def test_where_gradients_do_not_exist_yet_reuse_is_announced_once(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planned(tiny_dit, tmp_path, "method=goc_anchored", "cache_ratio=0.75")
    said = [record.message for record in caplog.records if "gradients=computed" in record.message]
    assert said == ["predictor.gradients=computed: before the cached steps 1,2,3,4 fewer than two are computed: "
                    "plain reuse there"]  # fmt: skip


def test_a_model_must_have_more_blocks_than_are_looked_at(tiny_dit: DiT, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.first_blocks=3: must be less than the model's 3 blocks"):
        planned(tiny_dit, tmp_path, "method=first_block", "schedule.first_blocks=3")
