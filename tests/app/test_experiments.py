"""Every experiment in experiments/, in seconds, by the command that it names itself."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from application import Run
from checkout import REPOSITORY
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from goc.config import from_hydra, run_id, validate
from goc.config.hydra import composed
from goc.config.known import CHOSEN

EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.yaml"))
# smoke runs have only one
SEVERAL_MODELS = ("digits_decisions", "digits_models", "digits_guidance", "digits_field", "digits_rivals", "fashion")
# jobs of the whole sweep; and, where that is large, values for some of its settings that keep all the others
JOBS = {
    "digits_ablation": 40,  # 10 lists of weights at 4 thresholds
    "digits_budget": 46,  # 6 numbers of steps, and 5 methods on 2 of them at 4 ratios
    "digits_decisions": 64,  # 8 ways on 8 models
    "digits_field": 208,  # 26 ways on 8 models
    "digits_front": 1056,  # 8 models x 2 x 2: 2 at one ratio, 6 at 4; 1 more of six models at 4, 4 of two
    "digits_guidance": 132,  # 11 ways on 6 models at 2 scales
    "digits_models": 204,  # 35 ways on 3 diffusion models (one of them named twice), 32 on 3 flow models
    "digits_ratios": 672,  # 14 ways on 6 models, with 2 numbers of steps, at 4 ratios
    "digits_rivals": 148,  # with 4 numbers of evaluations 5 solvers, 2 learned, 19 caches, on flow 1, 1 and 8; and 4
    "digits_tradeoff": 95,  # 19 methods at 5 ratios
    "fashion": 112,  # 58 ways of diffusion, 54 of flow matching
    "paper_ablation": 3,
    "paper_ddim50": 8,
    "paper_l2c": 2,
    "paper_rule_based": 8,
    "paper_speca": 10,
    "paper_taylorseer": 22,
    "paper_toca": 7,
    "prompts": 18,  # 6 methods at 3 ratios
}
FEWER = {
    "digits_ablation": "inflection_threshold=0.3 gradient_weights=[1.0],[0.8,0.2]",
    "digits_budget": "cache_ratio=0.67 steps=20",
    "digits_decisions": "steps=10",
    "digits_field": "steps=20",
    "digits_front": "model=digits steps=20 cfg_scale=1 cache_ratio=0.75 method=front",
    "digits_guidance": "cfg_scale=4 steps=6 guidance_interval=[0.28,2.9]",
    "digits_models": "steps=4 cache_ratio=0.5 method=goc",
    "digits_ratios": "model=digits steps=20 cache_ratio=0.75 method=searched_learned",
    "digits_rivals": "steps=5 cache_ratio=0.6 method=goc",
    "digits_search": "hydra.sweeper.n_trials=4",
    "digits_tradeoff": "cache_ratio=0.67 method=none,l2c_goc,teacache,goc_stack_logsnr",  # test_plan.py: all
    "fashion": "steps=4 cache_ratio=0.5 method=goc",
    "paper_speca": "steps=10",
    "paper_taylorseer": "steps=10",
    "paper_toca": "steps=10",
    "prompts": "cache_ratio=0.5 method=none,goc,taylorseer steps=6",
}
ROWS = {
    "digits_ablation": 2,
    "digits_budget": 6,
    "digits_decisions": 8,
    "digits_field": 48,  # 24 of each objective, as steps are the same here: with both numbers of clusters
    "digits_front": 2,  # and Taylor on even steps
    "digits_guidance": 14,  # 7 ways in one interval, on one model of each objective
    "digits_models": 12,  # 3 models are one here
    "digits_ratios": 4,  # learned weights with their own schedule and with the one named; two predictors on even steps
    "digits_rivals": 11,  # DDIM, both spacings of UniPC and DPM-Solver, Euler, midpoint twice; learned times of three
    "digits_search": 4,  # Optuna's trials
    "digits_tradeoff": 4,
    "fashion": 10,  # steps and ratios are the same here: a way and solver each
    "paper_ablation": 3,
    "paper_ddim50": 7,
    "paper_l2c": 2,
    "paper_rule_based": 7,
    "paper_speca": 10,
    "paper_taylorseer": 22,
    "paper_toca": 7,
    "prompts": 3,
}
SHORT = ("digits_budget", "paper_ablation")  # a union of grids, and a study of the paper: run whole each time
ASKED = {"prompts": ("model.pipeline=FOLDER_OR_HUB_NAME", "prompts=FILE")}  # what only a user can name


def jobs_of(path: Path) -> int:
    """How many jobs the sweep of an experiment has."""
    sweeper = OmegaConf.to_container(OmegaConf.load(path))["hydra"]["sweeper"]
    grids = sweeper["grids"] if "grids" in sweeper else [sweeper["params"]]
    return sum(jobs_of_grid(grid) for grid in grids)


def jobs_of_grid(grid: dict[str, str]) -> int:
    """How many combinations the choices of a grid have."""
    choices = [f"{key}={value}" for key, value in grid.items()]
    swept = [override for override in OverridesParser.create().parse_overrides(choices) if override.is_choice_sweep()]
    return math.prod(len(list(override.sweep_string_iterator())) for override in swept)


def first_models(path: Path) -> str:
    """An experiment's grids as on a command line, with the first of the models of each, as a smoke run has only one.

    Without those that name a schedule's file, which is for one number of steps.
    """
    grids = OmegaConf.to_container(OmegaConf.load(path))["hydra"]["sweeper"]["grids"]
    first = [{**grid, "model": grid["model"].split(",")[0]} for grid in grids if "schedule.path" not in grid]
    quoted = (",".join(f'{key}:"{value}"' for key, value in grid.items()) for grid in first)
    return "[" + ",".join(f"{{{grid}}}" for grid in quoted) + "]"


@pytest.mark.parametrize("name", JOBS)
def test_an_experiment_sweeps_over_what_it_says(name: str) -> None:
    assert jobs_of(REPOSITORY / "experiments" / f"{name}.yaml") == JOBS[name]


def jobs(path: Path) -> Iterator[tuple[list[Override], list[Override]]]:
    """Every job of an experiment's sweep: the options of groups, and the settings, that it chooses."""
    sweeper = OmegaConf.to_container(OmegaConf.load(path))["hydra"]["sweeper"]
    parser = OverridesParser.create()
    for grid in sweeper["grids"] if "grids" in sweeper else [sweeper["params"]]:
        every = parser.parse_overrides([f"{key}={value}" for key, value in grid.items()])
        choices = [
            parser.parse_overrides([f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()])
            if one.is_choice_sweep()
            else [one]
            for one in every
        ]
        for job in itertools.product(*choices):
            of_groups = [one for one in job if one.key_or_group in CHOSEN]
            yield of_groups, [one for one in job if one.key_or_group not in CHOSEN]


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", JOBS)
def test_every_job_of_an_experiment_can_be_run(name: str, every: int) -> None:
    """Composed and checked, which is all but the computing; options of groups are composed once for all their jobs.

    every: of the jobs of a large one.
    """
    named = ["model.pipeline=folder", "prompts=prompts.txt"] if name in ASKED else []
    composed_for: dict[tuple[str, ...], DictConfig] = {}
    ids = set()
    step = every if JOBS[name] > 60 else 1
    for of_groups, settings in itertools.islice(jobs(REPOSITORY / "experiments" / f"{name}.yaml"), 0, None, step):
        chosen = tuple(one.input_line for one in of_groups)
        if chosen not in composed_for:
            composed_for[chosen] = composed([f"experiment={name}", *chosen, *named])
        node = composed_for[chosen].copy()
        for setting in settings:
            OmegaConf.update(node, setting.key_or_group, setting.value(), force_add=setting.is_add())
        config = from_hydra(node)
        validate(config)
        ids.add(run_id(config))
    assert ids
    assert len(ids) <= JOBS[name]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.nightly] * (path.stem not in SHORT)) for path in EXPERIMENTS],
    ids=lambda path: path.stem,
)
def test_an_experiment_runs_by_its_own_command(
    run_here: Run, tmp_path: Path, path: Path, request: pytest.FixtureRequest
) -> None:
    if path.stem == "digits_search":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install -e '.[optuna]'")
    package, command = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    assert command == " ".join([f"# python run.py -m experiment={path.stem}", *ASKED.get(path.stem, ())])
    fewer = FEWER.get(path.stem, "").split()
    if path.stem in SEVERAL_MODELS:
        fewer.append(f"hydra.sweeper.grids={first_models(path)}")
    arguments = command.removeprefix("# python run.py ").split()
    if path.stem in ASKED:
        pipeline = request.getfixturevalue("tiny_pipeline")
        named = {"FOLDER_OR_HUB_NAME": pipeline, "FILE": pipeline / "prompts.txt"}
        arguments = [f"{key}={named.get(value, value)}" for key, _, value in (a.partition("=") for a in arguments)]
        arguments[0] = "-m"
    run_here(*arguments, "+smoke=true", *fewer)
    folder = tmp_path / "outputs" / f"{path.stem}-smoke"
    assert len(pd.read_csv(folder / "results.csv")) == ROWS[path.stem]
    for name in ("table.md", "table.tex", "tradeoff.png", "tradeoff.svg", "tradeoff.pdf", "report.html"):
        assert (folder / name).stat().st_size > 300
