"""Means over models of one family: with their spread, each one's own number, and pooled differences in pairs."""

from pathlib import Path

import pytest
from paired import SAMPLES, content, pointed, runs_in

from goc.report.alignment import plot_alignments
from goc.report.families import families, markdown, spread
from goc.report.frame import over_seeds, table


def result(model: str, method: str, evaluations: float, fid: float, family: str | None = "digits") -> dict:
    cached = 0.0 if method == "none" else 0.5
    return content(
        method, cached, {"fid": fid, "fid_se": 4 / SAMPLES**0.5}, round(evaluations / (1 - cached)), model=model,
        config={"model": {"name": model, "family": family}},
        inflection={"alignment": [None, None, 0.5, -0.1]} if method == "goc" else {},
    )  # fmt: skip


def text_of(folder: Path, *results: dict) -> str:
    return markdown(*pointed(runs_in(folder, *results)))  # paired errors of 0.014


def rows_of(text: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_a_way_is_a_mean_over_models_beside_each_ones_own(tmp_path: Path) -> None:
    text = text_of(
        tmp_path,
        *(result(f"digits-{seed}", "none", 10, fid) for seed, fid in enumerate((2.0, 2.2, 2.4))),
        *(result(f"digits-{seed}", "goc", 10, fid) for seed, fid in enumerate((2.3, 2.5, 2.7))),
        *(result(f"digits-{seed}", "reuse", 10, fid) for seed, fid in enumerate((2.2, 2.1, 2.31))),
    )
    assert text.count("## ") == 1
    assert "## digits: mean over 3 models (digits-0, digits-1, digits-2), guidance 1.0, 400 samples" in text
    rows = {row["method"]: row for row in rows_of(text)}
    assert rows["no cache"]["FID"] == "2.20 ± 0.20"
    assert rows["no cache"]["FID of each"] == "2, 2.2, 2.4"
    assert rows["no cache"]["FID, to best"] == "best"
    assert rows["goc"]["FID, to best"].startswith("+0.300")
    assert "of 3" not in rows["goc"]["FID, to best"]
    assert rows["reuse"]["FID, to best"] == "tie"  # +0.2, -0.1, -0.09: a mean of 0.003


def test_models_that_disagree_are_counted(tmp_path: Path) -> None:
    text = text_of(
        tmp_path,
        *(result(f"digits-{seed}", "none", 10, 2.0) for seed in range(3)),
        *(result(f"digits-{seed}", "reuse", 10, fid) for seed, fid in enumerate((2.5, 2.4, 1.8))),
    )
    (reuse,) = [row for row in rows_of(text) if row["method"] == "reuse"]
    assert reuse["FID, to best"].endswith("(2 of 3)")


def test_only_ways_that_all_models_ran_and_only_families_of_several_have_means(tmp_path: Path) -> None:
    text = text_of(
        tmp_path,
        result("a-0", "none", 10, 2.0, "a"),
        result("a-1", "none", 10, 2.1, "a"),
        result("a-0", "goc", 10, 2.2, "a"),  # the other model lacks it
        result("b-0", "none", 10, 2.0, "b"),  # alone
        result("c", "none", 10, 2.0, None),
    )
    assert [row["method"] for row in rows_of(text)] == ["no cache"]
    assert "a: mean over 2 models" in text
    assert families(over_seeds(table([result("b-0", "none", 10, 2.0, "b")]))) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 1.0], "1"), ([2.16, 2.4], "2.28 ± 0.17"), ([float("nan"), 1.0], ""), ([50.0, 80.0], "65 ± 21")],
)
def test_a_spread_is_to_two_digits(values: list[float], expected: str) -> None:
    assert spread(values) == expected


def test_alignments_are_drawn_where_models_share_a_solver(tmp_path: Path) -> None:
    plot_alignments([result("a-0", "goc", 10, 2.0), result("a-0", "goc", 20, 2.0)], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    plot_alignments([result("a-0", "goc", 10, 2.0), result("a-1", "goc", 10, 2.0)], tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 5000
