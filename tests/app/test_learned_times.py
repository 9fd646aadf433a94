"""The file that goc train timesteps writes runs, with a cache and without, and only for what it was trained for."""

import json
import sys
from pathlib import Path

import pytest
from application import Run
from checkout import QUICK
from refusals import assert_refused

from goc.system.command import run_command
from goc.train import timesteps as train_timesteps

FILE = "outputs/timesteps/digits-ddim6-cfg1.json"


def test_the_file_it_writes_runs_with_a_cache_and_without_and_only_for_what_it_was_trained_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_here: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ("--iterations=2", "--batch=2", "--samples=4", "--held=2", "--target=8")
    monkeypatch.setattr(sys, "argv", ["goc", "steps=6", *tiny])
    assert run_command(train_timesteps.main) == 0
    assert json.loads((tmp_path / FILE).read_text())["trained_for"]["sampler"] == "ddim"
    named = "sampler.timesteps='outputs/timesteps/{model}-{sampler}{steps}-cfg{cfg_scale}.json'"
    run = (*QUICK, "steps=6", named)
    assert "none, DDIM(learned)-6" in run_here("method=none", *run).stdout
    assert "reuse, DDIM(learned)-6" in run_here("method=reuse", *run).stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/result.json")]
    assert {tuple(result["config"]["files"]) for result in results} == {("sampler.timesteps",)}
    assert len({result["config"]["files"]["sampler.timesteps"] for result in results}) == 1
    run = (*QUICK, "method=none", f"sampler.timesteps={tmp_path / FILE}")
    for other, message in (
        (("steps=6", "cfg_scale=1.5"), "was trained for cfg_scale=1.0, not for 1.5"),
        (("steps=8",), "is for steps=6, not for 8"),
        (("steps=6", "sampler=unipc"), "was trained for sampler=ddim, not for "),
        (("steps=6", "model=digits_1"), "was trained for model_sha256="),
    ):
        assert_refused(run_here(*run, *other, check=False), message)
