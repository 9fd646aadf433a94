"""A router for either objective is trained through the solver it is for."""

import sys
from pathlib import Path

import pytest

from goc.models.routers import load_router
from goc.system.command import run_command
from goc.train import router as train_router

pytestmark = pytest.mark.slow


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["goc train router", *arguments, "--iterations=2", "--batch=2"])
    return run_command(train_router.main)


@pytest.mark.parametrize("settings", [["model=digits"], ["model=digits_flow"], ["sampler=unipc"]])
def test_a_router_learns_in_odd_steps_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: list[str]
) -> None:
    path = tmp_path / "router.pt"
    assert train(monkeypatch, *settings, "steps=4", f"--out={path}") == 0
    probabilities = load_router(path, 4, 12).flip(0)  # by step
    initial = probabilities[0, 0, 0]
    assert (probabilities[::2] == initial).all()
    assert (probabilities[1::2] != initial).all()


@pytest.mark.parametrize("settings", [["sampler=ddpm"], ["model=digits_flow", "sampler=heun"]])
def test_other_solvers_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: list[str]
) -> None:
    assert train(monkeypatch, *settings) == 1
    assert "must be a deterministic one of one evaluation a step" in capsys.readouterr().err
