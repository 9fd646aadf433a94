from pathlib import Path

import pytest
from paired import SAMPLES, Runs, content, pointed, runs_in

from goc.report.pairs import best_of, difference, targets
from goc.report.published import beside
from goc.report.results import INFLUENCE_FILE
from goc.report.tables import latex, markdown, with_error


def result(method: str, steps: int, cached: float, fid: float, seed: int = 0, cfg_scale: float = 1.5) -> dict:
    metrics = {"fid": fid, "fid_se": 4 / SAMPLES**0.5, "is": 216.0 - fid}
    distances = {"drift": 0.1 * cached, "drift_se": 0.01} if cached else {}
    cost = {"macs_saved": cached, "latency_ratio": 1 - cached}
    return content(method, cached, metrics, steps, seed, cfg_scale, "DiT-XL/2-256", distances, cost)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return runs_in(
        tmp_path,
        result("none", 20, 0.0, 3.50),
        result("none", 10, 0.0, 4.00),
        result("goc", 20, 0.5, 3.52),
        result("reuse", 20, 0.5, 3.60),
        result("taylorseer", 20, 0.5, 3.525),
    )


def cells(text: str, method: str, steps: str) -> dict[str, str]:
    """A row of the first Markdown table."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.partition("###")[0].splitlines()
        if line.startswith("|")
    ]
    (row,) = [line for line in lines if line[:2] == [method, steps]]
    return dict(zip(lines[0], row, strict=True))


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [(2.1612, 0.2345, "2.16(23)"), (0.07612, 0.01412, "0.076(14)"), (216.28, 12.3, "216(12)"), (2.5, None, "2.5"),
     (0.99991, 0.0000057, "0.9999100(57)"), (3.0, 0.0, "3")],
)  # fmt: skip
def test_a_number_carries_its_error_in_the_fields_notation(value: float, error: float | None, expected: str) -> None:
    assert with_error(value, error) == expected


def test_a_difference_of_the_same_seeds_has_a_far_smaller_error_than_either_number(runs: Runs) -> None:
    frame, points = pointed(runs)
    by_method = {str(series): point for series, point in zip(frame["series"], points, strict=True)}
    delta = difference(by_method["reuse"], by_method["goc"], "fid")
    assert delta is not None
    assert delta.error is not None
    assert delta.value == pytest.approx(0.08)
    assert delta.error == pytest.approx(0.2 * 2**0.5 / SAMPLES**0.5, rel=0.1)
    assert delta.decided
    tied = difference(by_method["taylorseer"], by_method["goc"], "fid")
    assert tied is not None
    assert not tied.decided


def test_ways_share_a_table_sorted_by_cost_with_their_differences(runs: Runs) -> None:
    frame, points = pointed(runs)
    text = markdown(frame, points)
    assert text.count("## DiT-XL/2-256") == 1
    fewer, full, goc = (
        cells(text, *row) for row in (("no cache", "DDIM-10"), ("no cache", "DDIM-20"), ("goc", "DDIM-20"))
    )
    assert frame["evaluations"].tolist() == [10, 10, 10, 10, 20]
    assert goc["fid"] == "3.52(20)"
    assert goc["fid to uncached"] == "+0.020(13)"
    assert fewer["fid to uncached"] == full["fid to uncached"] == ""
    assert (goc["fid to best"], cells(text, "taylorseer", "DDIM-20")["fid to best"]) == ("tie", "tie")
    assert fewer["fid to best"].startswith("+0.48")
    assert full["fid to best"] == ""  # nothing else costs as much
    assert "**3.5" not in text


def test_bold_is_better_than_every_rival_by_two_paired_errors(tmp_path: Path) -> None:
    decided = runs_in(tmp_path, result("goc", 20, 0.5, 3.50), result("reuse", 20, 0.5, 3.60))
    frame, points = pointed(decided)
    assert "**3.50(20)**" in markdown(frame, points)
    assert best_of(frame, points, "fid", lower=True) == 0
    for folder, _ in decided:
        (folder / INFLUENCE_FILE).unlink()  # then only their own errors of 0.2 are known
    frame, points = pointed(decided)
    text = markdown(frame, points)
    assert "**3.5" not in text
    assert f"No paired error for goc: {INFLUENCE_FILE} is missing" in text


def test_several_seeds_are_pooled(tmp_path: Path) -> None:
    both = [
        result(method, 20, 0.5, fid + seed, seed) for seed in (0, 1) for method, fid in (("goc", 3.5), ("reuse", 3.6))
    ]
    frame, points = pointed(runs_in(tmp_path, *both))
    assert frame["seed"].tolist() == ["0,1", "0,1"]
    assert frame["fid_se"].tolist() == pytest.approx([0.2 / 2**0.5] * 2)
    delta = difference(points[1], points[0], "fid")
    assert delta is not None
    assert delta.error == pytest.approx(0.2 / SAMPLES**0.5, rel=0.1)  # two seeds, two runs


def test_distances_to_the_uncached_run_are_not_compared_across_steps(tmp_path: Path) -> None:
    runs = runs_in(tmp_path, result("goc", 20, 0.5, 3.5), result("goc", 40, 0.75, 3.5), result("none", 20, 0.0, 3.4))
    frame, points = pointed(runs)
    text = markdown(frame, points)
    assert "**0.05" not in text  # 0.050(10) and 0.075(10) differ by more than two errors, and by their targets
    assert "not across solvers" in text
    assert targets(frame) == [2, None, None]


def test_measured_numbers_are_laid_beside_the_published_ones_of_the_same_model_and_steps(tmp_path: Path) -> None:
    frame, _ = pointed(
        runs_in(tmp_path, result("goc", 20, 0.5, 3.9), result("none", 20, 0.0, 3.4), result("l2c_goc", 20, 0.22, 3.45))
    )
    lines = beside(frame, with_error)
    half = lines[lines["cached"] == "50.0%"].set_index("metric")
    assert half.loc["fid", "published"] == 3.907
    assert half.loc["fid", "difference"] == pytest.approx(3.9 - 3.907)
    assert half.loc["is", "published"] == 216.28
    assert "l2c_goc" not in set(lines["method"])  # nobody has published GOC on L2C
    assert len(lines[lines["method"] == "no cache"]) == 4  # FID and IS in two papers
    assert beside(frame.assign(model="digits"), with_error).empty


def test_rows_of_different_measurements_stand_in_tables_of_their_own_and_the_report_says_so(tmp_path: Path) -> None:
    frame, points = pointed(runs_in(tmp_path, result("goc", 20, 0.5, 3.5), result("goc", 20, 0.5, 4.5, cfg_scale=1.0)))
    text = markdown(frame, points)
    assert "2 measurements, which differ in cfg_scale, measurement (weights, reference, ...)" in text
    assert text.count("## DiT-XL/2-256") == 2
    assert latex(frame, points).startswith("% 2 measurements")
    assert latex(frame, points).count(r"\begin{tabular}") == 2


def test_fewer_samples_than_features_are_told(runs: Runs) -> None:
    frame, points = pointed(runs)
    assert "400 samples are fewer than the extractor's 2048 features" in markdown(frame, points, 2048)
    assert "fewer than the extractor" not in markdown(frame, points, 64)


def test_latex_is_escaped_and_uses_booktabs(tmp_path: Path) -> None:
    frame, points = pointed(runs_in(tmp_path, result("l2c_goc", 20, 0.5, 3.5), result("reuse", 20, 0.5, 3.6)))
    text = latex(frame, points)
    assert r"l2c\_goc & DDIM-20 & 50.0 \% & 10 & \textbf{3.50(20)}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
