"""The file that goc train weights writes runs, and only where it was trained for."""

import json
import sys
from pathlib import Path

import pytest
from application import Run
from checkout import QUICK
from refusals import assert_refused

from goc.system.command import run_command
from goc.train import weights as train_weights


def test_the_file_it_writes_runs_and_only_where_it_was_trained_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_here: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ("steps=6", "cache_ratio=0.5")
    tiny = ("--iterations=2", "--batch=2", "--samples=4")
    monkeypatch.setattr(sys, "argv", ["goc", *settings, "schedule=uniform", "predictor=taylor", *tiny])
    assert run_command(train_weights.main) == 0
    file = tmp_path / "outputs/weights/digits-ddim6-3-cfg1.json"
    content = json.loads(file.read_text())
    assert content["computed"] == [0, 2, 4]
    assert sorted(content["weights"]) == ["1", "3", "5"]
    run = ("method=searched_learned", *QUICK, *settings)
    assert "searched_learned, DDIM-6" in run_here(*run, f"model.weights={file}").stdout
    for other, message in (
        ("cfg_scale=1.5", "was trained for cfg_scale=1.0, not for 1.5"),
        ("steps=8", "is for 6 evaluations, not for 8"),
        ("schedule=taylorseer", "was trained for the schedule 0,2,4, not for 0,1,4"),
        ("model=digits_1", "was trained for model_sha256="),
    ):
        assert_refused(run_here(*run, f"predictor.path={file}", other, check=False), message)
