"""The notebooks run top to bottom, and what they say of their numbers holds.

The site runs all of them in a kernel (`make docs`, which CI calls); the longer ones' numbers are looked at nightly.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from checkout import REPOSITORY, run_environment
from matplotlib import pyplot as plt


def code_of(name: str) -> list[tuple[str, str]]:
    """The code of a notebook's cells, each after what it is called."""
    notebook = json.loads((REPOSITORY / "docs" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [(f"{name}, {cell['id']}", "".join(cell["source"])) for cell in cells]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the code of a notebook in this process, in an empty folder; returns its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plt.switch_backend("Agg")

    def runs(name: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for cell, code in code_of(name):
            exec(compile(code, cell, "exec"), names)
        return names

    yield runs
    plt.close("all")


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # diffusers
def test_a_cache_in_your_pipeline(run: Any) -> None:
    names = run("a_cache_in_your_pipeline")
    assert (names["with_goc"] != names["without"]).any()
    assert all(row["MACs"].startswith(("49%", "58%")) for row in names["rows"].values())
    assert all(25 < row["PSNR to no cache, dB"] < 70 for row in names["rows"].values())


@pytest.mark.nightly
@pytest.mark.usefixtures("without_plots")
def test_what_ten_evaluations_buy(run: Any) -> None:
    table = run("what_ten_evaluations_buy")["table"]
    assert (table["evaluations"] == 10).all()
    plain, reuse, goc, unipc = table["converged"]
    assert plain > reuse > goc > unipc
    assert plain / goc > 1.5
    assert table["fid"].max() - table["fid"].min() < table["fid_se"].min()


@pytest.mark.nightly
def test_a_method_of_your_own() -> None:
    # in a process of its own, as a method that is registered stays
    code = "\n".join(code for _, code in code_of("a_method_of_your_own"))
    code += "\nprint(table.to_json())"
    finished = subprocess.run([sys.executable, "-c", code], env=run_environment(), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    table = json.loads(finished.stdout.splitlines()[-1])
    assert table["cached"] == pytest.approx({"reuse": 0.5, "goc": 0.5, "late": 0.4})
    assert 0 < table["relative_l2_mean"]["late"] < table["relative_l2_mean"]["reuse"]
