"""Runs, sweeps and comparisons from Python are those of the command line."""

import ast
import errno
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from application import Run
from checkout import QUICK, REPOSITORY, run_environment

import goc
from goc.cli.application import SweepReport

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_is_what_the_command_line_makes(run_here: Run, tmp_path: Path) -> None:
    result = goc.run("method=goc", "cache_ratio=0.4", *QUICK, gradient_weights=[1.1])
    assert result.config["gradient_weights"] == [1.1]
    assert result.metrics["fid"] > 0
    assert result.distance["drift"] > 0
    assert result.cost["cache_ratio"] == pytest.approx(0.4)
    assert result.influence["fid"].shape == (24,)
    made = (result.folder / "result.json").stat().st_mtime_ns
    shown = run_here("method=goc", "cache_ratio=0.4", "gradient_weights=[1.1]", *QUICK).stdout
    assert (result.folder / "result.json").stat().st_mtime_ns == made  # the same folder: it was read back
    rows = [line for line in str(result).splitlines() if "written to" not in line]
    assert rows == [line for line in shown.splitlines() if "written to" not in line]
    assert f"<td>{result.method}, DDIM-5" in result._repr_html_()

    result.save("kept")
    kept = goc.Result.load("kept")
    assert kept.content == result.content
    assert np.array_equal(kept.influence["fid"], result.influence["fid"])


def test_a_sweep_has_its_runs_and_what_failed(tmp_path: Path) -> None:
    study = goc.sweep("method=reuse,goc", "cache_ratio=0.4,1.5", *QUICK, name="mine")
    assert sorted(result.method for result in study) == ["goc", "reuse"]
    assert list(study.failed.values()) == ["cache_ratio=1.5: must be in [0, 1)"] * 2
    assert set(study.table["method"]) == {"goc", "reuse"}
    assert (tmp_path / "outputs" / "mine" / "report.html").exists()
    first, second = study
    differences = goc.compare(first, second.folder)
    row = differences.set_index("").loc["relative_l2_mean"]
    assert row["two paired errors"] in ("first is better", "second is better")


def test_a_reason_that_cannot_be_written_does_not_end_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("goc.cli.application.write_text", full)
    study = goc.sweep("method=reuse", "cache_ratio=1.5,0.4", *QUICK, name="mine")
    assert len(study) == 1
    shown = capsys.readouterr().err
    assert "1 failed:\n  cache_ratio=1.5: must be in [0, 1)" in shown
    assert SweepReport.failed


SCRIPTS = REPOSITORY / "scripts"


def imported(path: Path, seen: set[Path]) -> Iterator[str]:
    """Modules in the order in which a script imports them, with those that its own import."""
    if path in seen:
        return
    seen.add(path)
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
        for name in names:
            parts = name.split(".")
            for module in (SCRIPTS.joinpath(*parts[: n + 1]) for n in range(len(parts))):
                for file in filter(Path.is_file, (module / "__init__.py", module.with_suffix(".py"))):
                    yield from imported(file, seen)
            yield name


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_a_script_imports_goc_before_what_imports_torchvision(script: Path) -> None:
    first = itertools.takewhile(lambda name: name.partition(".")[0] != "goc", imported(script, set()))
    # `import diffusers` by itself imports nothing more
    assert [name for name in first if name.startswith(("diffusers.", "torchvision", "transformers", "timm"))] == []


@pytest.mark.nightly
@pytest.mark.parametrize("script", ["benchmark.py", "compatibility.py"])
def test_a_script_starts_in_a_new_process(script: str) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), "--help"]
    done = subprocess.run(command, env=run_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
