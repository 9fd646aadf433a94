"""What tests know of the checkout they are in: where it is, small settings, and results and oracles below it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).parent.parent
# small enough for a test: 5 steps of a few digits; and without what only a test of it needs
SMALL = ("num_samples=24", "batch_size=12", "steps=5", "calibration_samples=8", "converged_samples=0")
QUICK = (*SMALL, "latency_repeats=0", "metrics=[fid]")


def oracle_folders(config: pytest.Config) -> list[Path]:
    """The folders of reference trajectories; the published routers and schedules are in data/ beside the first."""
    from goc.check.oracles import FOLDERS  # a script's, which processes that import this file need not find

    return config.getoption("--oracles") or list(FOLDERS)


def run_environment() -> dict[str, str]:
    """For a process of its own beside others: one thread, since pytest-xdist runs one test for each core."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def only_result(folder: Path) -> dict[str, Any]:
    """The one result.json below a folder."""
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of pytest-xdist's workers to need it fills, for all of them: only to be read."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not (done := folder / ".made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder
