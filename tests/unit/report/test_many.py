"""Reports on more rows than a page or a picture has room for: they show the foremost, and say so."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.reports import make_runs, result_of
from paired import pointed

from goc.report import cells, page, plots, study
from goc.report.columns import qualities
from goc.report.frame import over_seeds, table
from goc.report.front import beyond, foremost, leading, pareto
from goc.report.pairs import difference


def test_the_front_is_what_comparing_all_pairs_finds() -> None:
    generator = np.random.default_rng(0)
    for size in (0, 1, 2, 30, 200):
        cost, quality = (generator.integers(0, 12, size).astype(float) for _ in range(2))
        for values in (cost, quality):
            values[generator.random(size) < 0.1] = np.nan
        known = ~np.isnan(cost + quality)
        beaten = [
            any(known[j] and cost[j] <= cost[i] and quality[j] <= quality[i]
                and (cost[j] < cost[i] or quality[j] < quality[i]) for j in range(size))
            for i in range(size)
        ]  # fmt: skip
        assert pareto(cost, quality, True).tolist() == (known & ~np.array(beaten, dtype=bool)).tolist()
        assert pareto(cost, -quality, False).tolist() == pareto(cost, quality, True).tolist()


def test_the_foremost_rows_are_uncached_ones_the_front_and_the_best_of_each_measurement() -> None:
    results = [result_of(number, 20) for number in range(100)]
    for number in range(50, 100):
        results[number]["measurement"]["model_sha256"] = "other"
    frame = over_seeds(table(results)).assign(fid=np.random.default_rng(0).permutation(100.0 + np.arange(100)))
    rows = frame.iloc[foremost(frame, 24, ("fid",))]
    assert rows["measurement"].value_counts().tolist() == [12, 12]
    for name, every in frame.groupby("measurement"):
        mine = rows[rows["measurement"] == name]
        assert (mine["cached"] == 0).sum() == (every["cached"] == 0).sum()
        front = every[pareto(every["evaluations"].to_numpy(float), every["fid"].to_numpy(float), True)]
        assert set(front.index) <= set(mine.index)
    assert foremost(frame, 100, ("fid",)).tolist() == list(range(100))


@pytest.mark.slow
def test_a_page_of_too_many_rows_shows_the_foremost_and_its_differences_are_those_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(tmp_path, 60, 20)
    monkeypatch.setattr(page, "ROWS", 40)
    monkeypatch.setattr(page, "PICTURED", 10)
    monkeypatch.setattr(cells, "PAIRS", 200)
    monkeypatch.setattr(plots, "SERIES", 5)
    monkeypatch.setattr(plots, "POINTS", 30)
    assert study.main([str(tmp_path)]) == 0
    assert re.search(r"tradeoff.png has \d+ of 60 rows, 5 of \d+ lines", capsys.readouterr().out)
    text = (tmp_path / "report.html").read_text()
    assert "60 rows, of which the page has 40" in text
    assert "Pictures of 10 of 40 rows" in text
    assert "differences of all pairs: 5\n  can be chosen" in text
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert script
    (data,) = json.loads(script[1])
    assert (len(data["rows"]), len(data["baselines"])) == (40, 5)
    assert data["rows"][data["baselines"][0]]["uncached"]
    assert len(pd.read_csv(tmp_path / "tradeoff.csv")) == 60
    assert (tmp_path / "table.md").read_text().count("\n| ") == 61

    runs = [(folder, json.loads((folder / "result.json").read_text())) for folder in sorted(tmp_path.glob("run-*"))]
    frame, points = pointed(runs)
    shown = [points[place] for place in foremost(frame, 40, qualities())]
    for place, baseline in enumerate(data["baselines"]):
        for row, entry in enumerate(data["differences"]["fid"][place]):
            if row == baseline:
                assert entry is None
                continue
            expected = difference(shown[row], shown[baseline], "fid")
            assert expected
            assert entry == [pytest.approx(expected.value, rel=1e-6), pytest.approx(expected.error, rel=1e-6),
                             expected.decided]  # fmt: skip
    # ringed are rows that none of all rows beats, shown or not
    front = pareto(frame["evaluations"].to_numpy(float), frame["is"].to_numpy(float), False)
    kept = foremost(frame, 40, qualities())
    assert data["fronts"]["is"]["evaluations"] == np.flatnonzero(front[kept]).tolist()


def points_with(**columns: list[float]) -> pd.DataFrame:
    """Rows of a frame, the first without a cache."""
    count = len(next(iter(columns.values())))
    frame = {"cached": [0.0] + [0.5] * (count - 1), "evaluations": [20.0] * count, "solver": ["DDIM-20"] * count}
    return pd.DataFrame({**{column: [np.nan] * count for column in qualities()}, **frame, **columns})


def test_what_is_far_beyond_most_rows_has_no_place_on_an_axis_but_no_row_that_is_worth_its_cost() -> None:
    distances = [0.06, 0.08, 0.1, 0.15, 0.7, 0.75]
    assert beyond(points_with(converged=distances), "converged").tolist() == [False] * 4 + [True] * 2
    assert not beyond(points_with(converged=distances[:4]), "converged").any()
    cheaper = points_with(converged=distances, evaluations=[20, 10, 10, 10, 4, 5])
    assert beyond(cheaper, "converged").tolist() == [False] * 5 + [True]  # none is as cheap, and better
    uncached = points_with(converged=distances, cached=[0.5, 0.5, 0.5, 0.5, 0.0, 0.5])
    assert beyond(uncached, "converged").tolist() == [False] * 5 + [True]
    natural = [0.025, 0.04, 0.06, 0.12]
    assert not beyond(points_with(converged=natural), "converged").any()
    wide = list(np.geomspace(0.001, 10.0, 20))  # many sizes, but none by itself
    assert not beyond(points_with(drift=wide), "drift").any()
    assert beyond(points_with(**{"is": [4.0, 4.2, 4.1, 4.3, 1.2, 4.1]}), "is").tolist() == [False] * 4 + [True, False]
    missing = points_with(fid=[5.0, np.nan, 5.2, 5.1, 50.0, np.inf])
    assert beyond(missing, "fid").tolist() == [False] * 4 + [True, False]
    assert not beyond(points_with(fid=[np.nan] * 3), "fid").any()
    assert not beyond(points_with(fid=[-1e-9, 5.0, 5.2, 5.1, 50.0]), "fid").any()


def test_a_distance_is_shown_first_where_all_rows_have_the_same_one() -> None:
    two = {"fid": [5.0, 5.1], "relative_l2_mean": [np.nan, 0.1]}
    assert leading(points_with(**two, converged=[0.1, 0.2])) == "converged"
    assert leading(points_with(**two)) == "relative_l2_mean"
    assert leading(points_with(**two).assign(solver=["DDIM-50", "DDIM-20"])) == "fid"
    assert leading(points_with(clip=[0.2, 0.3])) == "clip"
