"""Sweeps: jobs are checked before the first of them runs; and hydra/sweeper=union, several grids as one."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from application import Run
from checkout import QUICK, SMALL
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from goc.config.hydra import composed

Plugins.instance()  # its scan loads Hydra's own sweepers anew, so what derives from them is imported after it

UnionSweeper = import_module("hydra_plugins.goc_sweepers").UnionSweeper

pytestmark = pytest.mark.usefixtures("without_plots")

GRIDS = [{"method": "none", "steps": "5,10"}, {"method": "reuse,goc", "steps": 20, "cache_ratio": "0.5,0.75"}]
Launch = tuple[int, list[list[str]]]


def launches(folder: Path, grids: list[dict[str, Any]], *arguments: str, **settings: Any) -> list[Launch]:
    """What a launcher is given by a sweep: the number of the first job, and the jobs."""
    given: list[Launch] = []

    def launch(jobs: list[list[str]], initial_job_idx: int) -> list[Any]:
        given.append((initial_job_idx, jobs))
        return []

    sweeper = UnionSweeper(grids, **settings)
    loader = Mock(load_sweep_config=Mock(return_value=composed([])))
    sweeper.hydra_context = SimpleNamespace(config_loader=loader)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.launcher = SimpleNamespace(launch=launch)
    sweeper.sweep(list(arguments))
    return given


def jobs(folder: Path, *arguments: str) -> list[str]:
    """The jobs of a sweep over GRIDS, all of which the launcher is given at once."""
    ((first, given),) = launches(folder, GRIDS, *arguments)
    assert first == 0
    return [" ".join(job) for job in given]


def test_the_grids_follow_each_other_in_one_launch(tmp_path: Path) -> None:
    assert jobs(tmp_path) == [
        "method=none steps=5",
        "method=none steps=10",
        "method=reuse steps=20 cache_ratio=0.5",
        "method=reuse steps=20 cache_ratio=0.75",
        "method=goc steps=20 cache_ratio=0.5",
        "method=goc steps=20 cache_ratio=0.75",
    ]


def test_a_value_on_the_command_line_replaces_the_choices_of_each_grid_that_has_the_setting(tmp_path: Path) -> None:
    assert jobs(tmp_path, "steps=7", "method=fora") == [
        "method=fora steps=7",
        "method=fora steps=7 cache_ratio=0.5",
        "method=fora steps=7 cache_ratio=0.75",
    ]


def test_choices_on_the_command_line_are_combined_with_each_grid(tmp_path: Path) -> None:
    assert jobs(tmp_path, "steps=7,8", "method=goc", "cache_ratio=0.4", "seed=range(0,2)", "+name=two") == [
        f"method=goc steps={steps} cache_ratio=0.4 seed={seed} +name=two"
        for _ in GRIDS
        for steps in (7, 8)
        for seed in (0, 1)
    ]


def test_numbers_of_jobs_run_on_from_batch_to_batch(tmp_path: Path) -> None:
    ((_, whole),) = launches(tmp_path, GRIDS)
    batches = launches(tmp_path, GRIDS, max_batch_size=4)
    assert batches == [(0, whole[:4]), (4, whole[4:])]


@pytest.mark.nightly
def test_both_grids_of_an_experiment_are_in_one_report(run_here: Run, tmp_path: Path) -> None:
    finished = run_here("-m", "experiment=digits_budget", "smoke=true", "steps=20,50", "cache_ratio=0.5")
    folder = tmp_path / "outputs" / "digits_budget-smoke"
    rows = pd.read_csv(folder / "results.csv")
    methods = ("none", "reuse", "goc", "goc_anchored", "taylorseer", "searched_learned")
    expected = {(method, steps) for method in methods for steps in (20, 50)}
    assert len(rows) == len(expected)
    assert set(zip(rows["method"], rows["steps"], strict=True)) == expected
    assert "Launching 12 jobs" in finished.stdout + finished.stderr


def test_grids_on_the_command_line_are_swept_over(run_here: Run, tmp_path: Path) -> None:
    grids = "hydra.sweeper.grids=[{method:none,seed:'0,1'},{method:reuse,cache_ratio:0.4}]"
    said = run_here("-m", "hydra/sweeper=union", grids, *QUICK, "metrics=[]")
    assert "will be refused" not in said.stdout + said.stderr
    assert len(list((tmp_path / "outputs").rglob("result.json"))) == 3


@pytest.mark.parametrize(
    "grids",
    ["[]", "null", "5", "none", "{method:none}", "[method]", "[{}]", "[{method:none},{}]", "[{steps:[5,7]}]"],
)
def test_bad_grids_are_one_line(run_here: Run, grids: str) -> None:
    finished = run_here("-m", "hydra/sweeper=union", f"hydra.sweeper.grids={grids}", *SMALL, check=False)
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: hydra.sweeper.grids=")
    assert "must be a list of grids, each a mapping of settings to choices in one string" in line


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("{methud:none}", ["methud"]),
        ("{method:'gok,none'}", ["method/gok", "fora", "goc", "none"]),
        ("{steps:'5,('}", ["error: steps=5,(: must be a setting and its choices, in hydra.sweeper.grids"]),
    ],
)
def test_a_bad_setting_or_choice_in_a_grid_is_one_line(run_here: Run, grid: str, expected: list[str]) -> None:
    finished = run_here("-m", "hydra/sweeper=union", f"hydra.sweeper.grids=[{grid}]", *SMALL, check=False)
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in expected), line


@pytest.mark.parametrize("settings", [
    ("predictor=taylor,reuse", "++predictor.order=1", "method=taylorseer"),
    ("hydra/sweeper=union", "hydra.sweeper.grids=[{predictor:'taylor,reuse'}]", "++predictor.order=1",
     "method=taylorseer"),
    ("hydra.sweeper.max_batch_size=2", "predictor=taylor,reuse", "++predictor.order=1", "method=taylorseer"),
])  # fmt: skip
def test_jobs_that_will_be_refused_are_told_before_the_first_one_runs(
    settings: tuple[str, ...], run_here: Run, tmp_path: Path
) -> None:
    finished = run_here("-m", *settings, *QUICK, "metrics=[]", check=False)
    (told,) = [line for line in finished.stdout.splitlines() if line.startswith("WARNING: a job will be refused: ")]
    assert "predictor.order=1: no such setting; predictor=reuse has dtype" in told
    assert finished.stdout.index(told) < finished.stdout.index("#0 :")
    assert finished.returncode == 1
    assert len(list((tmp_path / "outputs").rglob("result.json"))) == 1  # the others run
