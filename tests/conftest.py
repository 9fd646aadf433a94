"""Shared fixtures: small models, the oracles' folder, and run.py as a user runs it."""

import functools
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from warm import WarmProcess

import goc.cli.application
from goc.cli.application import SweepReport
from goc.metrics.fidelity import FeatureExtractorInceptionV3
from goc.models.dit import DiT
from goc.system.command import run_command

REPOSITORY = Path(__file__).parent.parent
TOGETHER = (
    "tests/tracking/test_tracking.py",
    "tests/test_imagenet.py",
    "tests/test_wheel.py",
)  # whose tests share what takes long to make
WAITING = ("tests/test_slurm.py", "tests/test_launchers.py", "tests/tracking/", "tests/sampling/test_workers.py")
SLOW_FIXTURES = {"run_py", "run_apart", "run_here", "start", "sweep", "weights", "inception_file", "browser", "wheel"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracles",
        type=Path,
        action="append",
        help="folder of reference trajectories from the methods' authors (default: those in shared/)",
    )
    parser.addoption("--nightly", action="store_true", help="the long tests that `make test` leaves out, alone")
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # pytest-xdist runs one process for each core
    config.addinivalue_line("markers", "nightly: long, and held by a shorter test as well; `make test-nightly`")
    config.addinivalue_line("markers", "slow: starts the application, compiles or trains; left out of `make check`")


def oracle_folders(config: pytest.Config) -> list[Path]:
    """The folders of reference trajectories; the published routers and schedules are in data/ beside the first."""
    from goc.check.oracles import FOLDERS  # a script's, which processes that import this file need not find

    return config.getoption("--oracles") or list(FOLDERS)


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if config.getoption("--nightly"):
        config.hook.pytest_deselected(items=[item for item in items if item not in nightly])
        items[:] = nightly
    elif not any("::" in argument for argument in config.args):  # one that is named is run
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]
    for item in items:
        if (file := item.nodeid.split("::")[0]) in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(file))
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    items.sort(key=lambda item: not item.nodeid.startswith(WAITING))  # while they wait, others compute


@pytest.fixture
def tiny_dit() -> DiT:
    """A random DiT whose every block changes the output (the usual initialisation makes them the identity)."""
    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=3, num_heads=2, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


class UntrainedInception(FeatureExtractorInceptionV3):
    """Inception-v3 as it is initialised: torch-fidelity's cannot be made without a state dict, so this ignores it."""

    def load_state_dict(self, state_dict: object, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a random Inception-v3 whose activations neither vanish nor explode."""
    torch.manual_seed(0)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    state = UntrainedInception("untrained", ["2048"], nothing).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor *= 6**0.5
        elif name.endswith("bn.bias"):
            tensor += 0.1 * torch.randn_like(tensor)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random pipeline of goc random-weights, with prompts.txt and clip/ in its folder."""
    from goc.cli import random_weights

    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    assert random_weights.main(["--pipeline", str(folder)]) == 0
    return folder


def run_environment() -> dict[str, str]:
    """For a process of its own beside others: one thread, since pytest-xdist runs one test for each core."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def only_result(folder: Path) -> dict[str, Any]:
    """The one result.json below a folder."""
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())


def run_in(folder: Path, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Call `python run.py ARGUMENTS` in a folder, as a process of its own."""
    finished = subprocess.run(
        [sys.executable, str(REPOSITORY / "run.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=run_environment(),
    )
    assert not check or finished.returncode == 0, finished.stderr
    return finished


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_py(tmp_path: Path) -> Run:
    """Call `python run.py ARGUMENTS` in an empty folder, as a process of its own."""
    return functools.partial(run_in, tmp_path)


def run_warm(folder: Path, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """The same, as a process that does not have to import everything first."""
    process = WarmProcess([str(REPOSITORY / "run.py"), *arguments], folder, run_environment())
    stdout, stderr = process.communicate()
    assert not check or process.returncode == 0, stderr
    return subprocess.CompletedProcess(arguments, process.returncode or 0, stdout, stderr)


@pytest.fixture
def run_apart(tmp_path: Path) -> Run:
    """Call what run.py calls in an empty folder, as a process of its own that starts at once."""
    return functools.partial(run_warm, tmp_path)


def show_on_stderr(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def call_here(folder: Path, capture: pytest.CaptureFixture[str], *arguments: str, check: bool = True) -> Any:
    """Call what run.py calls, in this process; returns what `run_in` does."""
    logger, before = logging.getLogger(), Path.cwd()
    handlers, level = logger.handlers[:], logger.level  # Hydra puts its own in their place
    capture.readouterr()
    SweepReport.failed = False
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="default"):
        patch.setattr(sys, "argv", [str(REPOSITORY / "run.py"), *arguments])
        patch.setattr(warnings, "showwarning", show_on_stderr)  # pytest would keep them for its summary
        os.chdir(folder)
        try:
            code = run_command(goc.cli.application.main)
        except SystemExit as ended:
            code = ended.code
        finally:
            os.chdir(before)
            logger.handlers, logger.level = handlers, level
    shown = capture.readouterr()
    assert not check or code == 0, shown.err
    return subprocess.CompletedProcess(arguments, code, shown.out, shown.err)


@pytest.fixture
def run_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """The same without a process, for what is not about one: imports take longer than most of these runs."""
    return functools.partial(call_here, tmp_path, capfd)
