"""Samples that a method was tuned on are not scored in silence."""

import json
from pathlib import Path

import pytest
from application import Run
from checkout import QUICK, only_result
from composing import config_of

from goc.config import validate
from goc.config.tuning import tuned_on
from goc.models.schedules import write_schedule
from goc.report.study import main as report

pytestmark = pytest.mark.usefixtures("without_plots")

SAME = ("seed=2503", "num_samples=40")
SEARCHING = ("schedule=searched", *SAME, "schedule.search_samples=9")
COUNTS = {
    ("method=goc", *SAME): {"calibration_seed=2503": 40},
    ("method=goc", *SAME, "calibration_samples=8"): {"calibration_seed=2503": 8},
    ("method=goc", *SAME, "calibration_seed=7"): {},
    ("method=goc", *SAME, "inflection_threshold=null"): {},
    ("method=reuse", *SAME): {},
    ("method=none", *SAME): {},
    ("method=teacache", *SAME): {"calibration_seed=2503": 40},
    ("method=searched", *SAME, "schedule.search_samples=9"): {"calibration_seed=2503": 9},
    ("method=searched", *SAME, "schedule.path=found.json"): {},
    ("method=searched", "seed=5", "num_samples=40", "schedule.path=found.json"): {"schedule.path=found.json": 12},
    ("method=searched", "seed=5", "num_samples=6", "schedule.path=found.json"): {"schedule.path=found.json": 6},
    ("method=budcache", *SAME, "schedule.search_samples=9"): {"calibration_seed=2503": 9},
    ("method=halving", *SAME, "schedule.search_samples=9", "calibration_samples=8"): {"calibration_seed=2503": 9},
    ("method=halving", *SAME, "schedule.search_samples=9", "calibration_samples=12"): {"calibration_seed=2503": 12},
    ("method=dpcache", *SAME, "calibration_samples=8"): {"calibration_seed=2503": 8},
    ("method=l2p", *SAME, "calibration_samples=8"): {"calibration_seed=2503": 8},
    ("predictor=l2p", *SEARCHING, "calibration_samples=30"): {"calibration_seed=2503": 30},
    ("predictor=l2p", *SEARCHING, "calibration_samples=8"): {"calibration_seed=2503": 9},
    ("method=goc",): {},
}


@pytest.mark.parametrize("settings", COUNTS, ids=" ".join)
def test_the_samples_that_a_method_saw_are_counted(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_schedule(Path("found.json"), 20, (0, 5, 10), searched={"seed": 5, "samples": 12})
    config = config_of(*settings)
    validate(config)
    assert tuned_on(config.way, config.measurement) == COUNTS[settings]


@pytest.mark.parametrize("key", ["method=l2c", "method=searched_learned"])
def test_shipped_files_say_what_they_were_trained_on(key: str) -> None:
    seen = {}
    for seed in (0, 2503):
        config = config_of(key, f"seed={seed}", "num_samples=5000")
        validate(config)
        seen[seed] = sorted(tuned_on(config.way, config.measurement).values())
    assert seen == ({0: [3200], 2503: []} if key == "method=l2c" else {0: [], 2503: [512]})


def test_a_run_that_scores_what_it_was_tuned_on_says_so_and_its_report_too(run_here: Run, tmp_path: Path) -> None:
    command = ("method=teacache", *QUICK, "name=mine")
    assert "tuned on" not in run_here(*command, "hydra.run.dir=outputs/mine/apart").stderr
    warned = run_here(*command, "seed=2503", "hydra.run.dir=outputs/mine/same")
    assert "seed=2503: the method was tuned on 8 of the samples that are scored" in warned.stderr
    assert json.loads((tmp_path / "outputs/mine/same/result.json").read_text())["tuned_on"] == {
        "calibration_seed=2503": 8
    }
    assert only_result(tmp_path / "outputs/mine/apart")["tuned_on"] == {}
    assert report([str(tmp_path / "outputs/mine/same")]) == 0
    assert "Tuned on up to 8 of the samples" in (tmp_path / "outputs/mine/same/table.md").read_text()
