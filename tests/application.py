"""run.py as a user runs it: as a process, or as what that process calls, in this one."""

import functools
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkout import REPOSITORY, SMALL, made_once, run_environment
from hydra._internal.hydra import Hydra
from warm import WarmProcess

import goc.cli.application
from goc.cli.application import SweepReport
from goc.system.command import run_command


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


# command lines of run.py in one process, with what it loads: after each, its exit code and which of these it has loaded
ONE_AFTER_THE_OTHER = """
import json, sys
from goc.cli.application import main
from goc.system.command import run_command
heavy = {"torch", "torchvision", "timm", "torch_fidelity", "scipy", "diffusers", "wandb"}
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        code = run_command(main)
    except SystemExit as ended:
        code = ended.code
    print("ended", code or 0, *heavy & set(sys.modules), flush=True)
"""

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
        # Hydra composes the config twice, first for hydra.mode alone, which no test sets: a third of a small run
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
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


def without_account(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Whatever account the tests are run from: nobody is logged in, and no setting of theirs counts."""
    for name in [name for name in run_environment() if name.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
    patch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
    patch.setenv("WANDB_ERROR_REPORTING", "false")


# five runs in one folder: without a cache there is nothing to vary
STUDY = ("name=study", *SMALL, "metrics=[isc,fid]", "latency_repeats=1")


@dataclass(frozen=True)
class Study:
    """What a sweep of STUDY left, and what it said."""

    outputs: Path
    finished: "subprocess.CompletedProcess[str]"

    @property
    def folder(self) -> Path:
        return self.outputs / "study"

    def run(self, method: str) -> Path:
        """The folder of one of its runs, with the highest ratio."""
        return sorted(self.folder.glob(f"{method}-*"))[-1]

    def result(self, method: str) -> dict[str, Any]:
        return dict(json.loads((self.run(method) / "result.json").read_text()))


def sweep(folder: Path) -> None:
    finished = run_warm(folder, "-m", "method=none,reuse,goc", "cache_ratio=0.2,0.4", *STUDY)
    (folder / "said.json").write_text(json.dumps([finished.stdout, finished.stderr]))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that all tests read which need finished runs: made once, in a process of its own."""
    folder = made_once(tmp_path_factory, "study", sweep)
    said = json.loads((folder / "said.json").read_text())
    return Study(folder / "outputs", subprocess.CompletedProcess([], 0, *said))


@pytest.fixture
def study_copy(study: Study, tmp_path: Path) -> Study:
    """A copy of it, where `run_here` finds its runs finished."""
    return Study(shutil.copytree(study.outputs, tmp_path / "outputs"), study.finished)
