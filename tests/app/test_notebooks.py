"""The notebooks run top to bottom, and what they say of their numbers holds. (The site runs them in a kernel.)"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from checkout import REPOSITORY
from matplotlib import pyplot as plt


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the code of a notebook in this process, in an empty folder; returns its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plt.switch_backend("Agg")

    def runs(name: str) -> dict[str, Any]:
        notebook = REPOSITORY / "docs" / "notebooks" / f"{name}.ipynb"
        names: dict[str, Any] = {}
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), names)
        return names

    yield runs
    plt.close("all")


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # diffusers
def test_a_cache_in_your_pipeline(run: Any) -> None:
    names = run("a_cache_in_your_pipeline")
    assert (names["with_goc"] != names["without"]).any()
    assert all(row["MACs"].startswith(("49%", "58%")) for row in names["rows"].values())
    assert all(25 < row["PSNR to no cache, dB"] < 70 for row in names["rows"].values())


@pytest.mark.usefixtures("without_plots")
def test_what_ten_evaluations_buy(run: Any) -> None:
    table = run("what_ten_evaluations_buy")["table"]
    assert (table["evaluations"] == 10).all()
    plain, reuse, goc, unipc = table["converged"]
    assert plain > reuse > goc > unipc
    assert plain / goc > 1.5
    assert table["fid"].max() - table["fid"].min() < table["fid_se"].min()
