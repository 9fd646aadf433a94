"""What a terminal shows of a study and of a run: it fits, the best is first, and the rest is named."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmarks.reports import result_of

from goc.report.frame import over_seeds, series_names, table
from goc.report.front import leading, pareto
from goc.report.result import Result
from goc.report.shape import problem_of
from goc.report.terminal import COLUMNS, ROWS, best_rows, study_lines, table_cells


def study(count: int, **changes: Any) -> pd.DataFrame:
    frame = over_seeds(table([{**result_of(number, 20), **changes} for number in range(count)]))
    return frame.assign(series=series_names(frame))


@pytest.mark.parametrize("across", [80, 100, 200])
def test_a_study_ends_with_few_columns_and_rows_that_fit_and_says_where_the_rest_is(across: int) -> None:
    frame = study(40)
    lines = list(study_lines(frame, Path("outputs/mine"), across))
    assert max(map(len, lines)) <= across
    assert f"10 of {len(frame)} rows" in "\n".join(lines)
    assert lines[-2].endswith("outputs/mine/table.md, tradeoff.csv")
    assert "outputs/mine/report.html" in lines[-1]
    cells = table_cells(best_rows(frame, ROWS))
    assert len(cells) == 1 + ROWS
    assert {len(row) for row in cells} == {COLUMNS}


def test_the_best_is_first_and_no_row_is_left_out_that_none_beats() -> None:
    frame = study(40)
    quality = leading(frame)
    rows = best_rows(frame, ROWS)
    known = rows[quality].dropna()
    assert known.is_monotonic_increasing
    front = frame[pareto(frame["evaluations"].to_numpy(float), frame[quality].to_numpy(float), lower=True)]
    assert set(front.index) <= set(rows.index) or len(front) > ROWS
    assert len(best_rows(frame, len(frame) + 1)) == len(frame)


def test_several_measurements_share_the_rows() -> None:
    results = [result_of(number, 20) for number in range(40)]
    for number, result in enumerate(results):
        result["measurement"]["model_sha256"] = str(number % 4)
    frame = over_seeds(table(results))
    lines = list(study_lines(frame.assign(series=series_names(frame)), Path("o"), 100))
    assert sum(" of " in line and "rows, by" in line for line in lines) == 4
    assert sum("DDIM-" in line or "-20" in line for line in lines) <= ROWS
    assert any("must not be compared" in " ".join(lines[place : place + 2]) for place in range(len(lines)))


def test_a_long_name_goes_on_in_the_next_line() -> None:
    frame = study(6)
    name = "a name of many words, " * 4
    frame["method"] = frame["method"].where(frame["cached"] == 0, name)
    lines = list(study_lines(frame, Path("o"), 80))
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()).count("words,") >= 4 * (frame["cached"] > 0).sum()


def test_the_table_of_a_run_fits_100_columns_but_for_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = result_of(1, 20)
    content["config"]["num_samples"] = 20
    content["cost"] |= {
        "peak_memory_bytes": None,
        "peak_cache_tensors": 1,
        "peak_cache_bytes": 1,
        "latency_ratio": None,
    }
    content["inflection"] = {"alignment": [None, *(0.5 for _ in range(49))]}
    monkeypatch.setenv("COLUMNS", "300")
    folder = tmp_path / ("deep" * 40)
    *lines, last = str(Result(folder, content)).splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(lines).count(":0.50") == 49
    assert last.endswith(str(folder / "result.json"))
    monkeypatch.chdir(tmp_path)
    assert str(Result(folder, content)).splitlines()[-1].split()[-1] == f"{'deep' * 40}/result.json"


def test_the_table_of_an_older_versions_run_has_what_is_known(tmp_path: Path) -> None:
    least = {"method": "goc", "config": {"model": {"name": "m"}}, "metrics": {}, "distance": {}, "cost": {},
             "inflection": {}, "measurement": {"model": "m"}}  # fmt: skip
    assert problem_of(least) == ""
    method, path = str(Result(tmp_path, least)).splitlines()
    assert method.split()[:2] == ["method", "goc,"]
    assert path.endswith("result.json")
