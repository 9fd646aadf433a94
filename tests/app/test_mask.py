from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goc.cli.mask import main, states
from goc.config import compose_config
from goc.system.command import run_command


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # calibrations are kept in outputs/cache


def cells(*overrides: str) -> np.ndarray:
    return states(compose_config(["calibration_samples=8", *overrides])).numpy()


def test_states_are_computed_reused_or_corrected_as_the_schedule_and_the_gating_say() -> None:
    drawn = cells("method=goc", "steps=8", "cache_ratio=0.5", "correct_steps=[3,7]")
    assert drawn.shape == (8, 12, 2)
    assert [int(step.max()) for step in drawn] == [0, 1, 0, 2, 0, 1, 0, 2]
    assert (drawn.min(axis=(1, 2)) == drawn.max(axis=(1, 2))).all()


def test_a_router_is_corrected_only_where_both_branches_are_cached() -> None:
    drawn = cells("method=l2c_goc", "cache_ratio=0.3", "inflection_threshold=null")
    both = (drawn > 0).all(axis=2)
    assert both.any()
    assert ((drawn > 0).any(axis=2) & ~both).any()
    assert (drawn[3:][both[3:]] == 2).all()
    assert (drawn[~both] < 2).all()


def test_an_adaptive_schedule_shows_what_it_did() -> None:
    drawn = cells("method=teacache", "steps=10", "schedule.threshold=1e9")
    assert drawn.flatten().tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_a_cell_some_of_whose_tokens_are_computed_is_shown_as_that() -> None:
    drawn = cells("method=duca", "steps=20", "schedule.interval=4", "selection.ratio=0.3", "selection.by_step=0")
    assert sorted(set(drawn[:, :, 0].flatten().tolist())) == [0, 1]  # attention is reused whole
    assert (drawn[2, :, 1] == 3).all()
    assert (drawn[3] == 1).all()  # a step that DuCa skips
    assert (drawn[0] == 0).all()


def test_the_command_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["method=fora", "schedule.interval=4", "--out", "masks/fora.png"]) == 0
    with Image.open(tmp_path / "masks" / "fora.png") as picture:
        assert np.asarray(picture).std() > 20
    assert "70.0% cached" in capsys.readouterr().out
    assert run_command(partial(main, ["method=fora", "schedule.interval=99"])) == 1
    assert "schedule.interval=99: must be in [1, 20]" in capsys.readouterr().err


def test_a_pipeline_has_no_mask_before_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(partial(main, ["model=pipeline", "model.pipeline=x", "prompts=y"])) == 1
    assert "model.objective=pipeline: must be diffusion or flow here" in capsys.readouterr().err
