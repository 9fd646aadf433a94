"""The README's picture: each way's closest rows, from one measurement alone, and what is far off only marked."""

import json
import sys
from pathlib import Path

import digits_budget as budget
import pytest
from benchmarks.reports import result_of
from PIL import Image

from goc.report.frame import over_seeds, table
from goc.system.command import run_command

# (evaluations, distance) of steps 20 and 50
ROWS = {
    "none": [(20, 20, 0.06), (50, 50, 0.03), (5, 5, 0.2)],
    "reuse": [(20, 4, 0.18), (20, 5, 0.15), (20, 10, 0.09), (50, 10, 0.08), (50, 25, 0.04)],
    "goc": [(20, 4, 0.75), (20, 5, 0.76), (20, 10, 0.06), (50, 10, 2.4), (50, 25, 0.03)],
    "another": [(20, 5, 0.01)],
}


def results() -> list[dict]:
    found = []
    for method, rows in ROWS.items():
        for steps, evaluations, distance in rows:
            result = result_of(0, 20)
            result["method"] = method
            result["config"] |= {"steps": steps, "predictor": {"name": method}, "cache_ratio": 1 - evaluations / steps}
            result["cost"] |= {"evaluations": evaluations, "cache_ratio": 1 - evaluations / steps}
            result["converged"] = {"mean": distance, "mean_se": 0.01 * distance}
            found.append(result)
    return found


def test_a_way_is_its_rows_that_none_of_its_own_beats_and_what_diverges_is_told() -> None:
    rows = budget.closest(over_seeds(table(results())))
    found = {
        method: own[["evaluations", "converged"]].to_numpy(float).tolist() for method, own in rows.groupby("method")
    }
    assert found == {
        "none": [[5, 0.2], [20, 0.06], [50, 0.03]],
        "reuse": [[4, 0.18], [5, 0.15], [10, 0.08], [25, 0.04]],
        "goc": [[4, 0.75], [10, 0.06], [25, 0.03]],
    }
    assert rows.loc[rows["far"], "converged"].tolist() == [0.75]


@pytest.mark.parametrize("measured", ["one", "several", "none"])
def test_the_picture_is_of_one_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measured: str
) -> None:
    for number, result in enumerate(results()[:8]):
        if measured == "several":
            result["measurement"]["model_sha256"] = str(number % 2)
        if measured == "none":
            del result["converged"]
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "result.json").write_text(json.dumps(result))
    picture = tmp_path / "distance.png"
    monkeypatch.setattr(sys, "argv", ["digits_budget.py", str(tmp_path), "--picture", str(picture)])
    assert run_command(budget.main) == (0 if measured == "one" else 1)
    if measured == "one":
        with Image.open(picture) as shown:
            assert shown.width > shown.height > 400
    else:
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert ("several measurements" if measured == "several" else "no finished runs there of none, reuse") in line
        assert not picture.exists()
