"""A table says where FID and a second extractor's distance order rows otherwise, if both tell them apart."""

from pathlib import Path

import numpy as np
import pytest
from paired import SAMPLES, content, pointed

from goc.report.opinions import disagreements
from goc.report.results import write_influence
from goc.report.tables import latex, markdown

NOISE = np.random.default_rng(0).normal(size=(4, SAMPLES))


def result(method: str, fid: float, second: float | None, metric: str) -> dict:
    metrics = {"fid": fid, "fid_se": 0.1, **({} if second is None else {metric: second, f"{metric}_se": 0.1})}
    return content(method, 0.5, metrics, config={"predictor": {"name": "reuse"}})


def table_of(folder: Path, *rows: tuple[str, float, float | None], metric: str = "fd_second"):
    runs = []
    for index, row in enumerate(rows):
        (folder / str(index)).mkdir()
        write_influence(folder / str(index), {"fid": NOISE[index], metric: NOISE[-1 - index]})
        runs.append((folder / str(index), result(*row, metric)))
    return pointed(runs)


def row_of(text: str, method: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {method}"))


@pytest.mark.parametrize("metric", ["fd_second", "fd_dinov2"])
def test_rows_that_the_two_order_otherwise_are_marked_and_named(metric: str, tmp_path: Path) -> None:
    """The error of a difference is about 0.07."""
    frame, points = table_of(tmp_path, ("a", 1.0, 6.0), ("b", 2.0, 5.0), ("c", 3.0, 7.0), metric=metric)
    by_name = list(frame["method"])
    assert disagreements(frame, points) == [(by_name.index("a"), by_name.index("b"))]
    text = markdown(frame, points)
    assert [("†" in row_of(text, method)) for method in "abc"] == [True, True, False]
    title = {"fd_second": "FD-second", "fd_dinov2": "FD-DINOv2"}[metric]
    assert f"a, 10 evaluations is better than b, 10 evaluations by FID, and worse by {title}" in text
    assert latex(frame, points).count("†") == 2


@pytest.mark.parametrize("rows", [(("a", 1.0, 5.0), ("b", 2.0, 6.0)), (("a", 1.0, 6.0), ("b", 1.05, 5.0))])
def test_rows_that_agree_or_that_one_does_not_tell_apart_are_not(rows: tuple, tmp_path: Path) -> None:
    frame, points = table_of(tmp_path, *rows)
    assert disagreements(frame, points) == []
    text = markdown(frame, points)
    assert "†" not in text
    assert "FID and FD-second agree" in text


def test_without_a_second_distance_nothing_is_said(tmp_path: Path) -> None:
    frame, points = table_of(tmp_path, ("a", 1.0, None), ("b", 2.0, None))
    text = markdown(frame, points)
    assert "FD-" not in text
    assert "fd_" not in text
