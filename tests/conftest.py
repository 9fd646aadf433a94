"""Shared fixtures: small models, the oracles' folder, and run.py as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from goc.models.dit import DiT

REPOSITORY = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracles",
        type=Path,
        default=REPOSITORY.parent / "shared" / "oracles",
        help="folder of reference trajectories from the methods' authors",
    )
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")


def pytest_configure() -> None:
    torch.set_num_threads(1)  # pytest-xdist runs one process for each core


@pytest.fixture
def tiny_dit() -> DiT:
    """A random DiT whose every block changes the output (the usual initialisation makes them the identity)."""
    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=3, num_heads=2, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_py(tmp_path: Path) -> Run:
    """Call `python run.py ARGUMENTS` in an empty folder, as a process of its own."""

    def call(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        finished = subprocess.run(
            [sys.executable, str(REPOSITORY / "run.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert not check or finished.returncode == 0, finished.stderr
        return finished

    return call
