"""The table of claims: shares of real runs' apart, and a miss where one is larger than what was claimed."""

import json
import sys
from pathlib import Path

import digits_ratios as claims
import pandas as pd
import pytest
from application import Run
from PIL import Image

from goc.system.command import run_command


def rows_of(text: str, title: str) -> list[dict[str, str]]:
    """The rows of a printed table."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.nightly
def test_shares_are_those_of_the_runs_and_misses_are_said(
    run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_here("-m", "name=study", "method=none,reuse,goc,goc_anchored,taylorseer,searched_learned", "num_samples=12",
             "cache_ratio=0.75", "metrics=[fid]", "latency_repeats=0", "converged_samples=0")  # fmt: skip
    apart = {}
    for file in (tmp_path / "outputs/study").glob("*/result.json"):
        result = json.loads(file.read_text())
        apart[result["method"]] = result["distance"].get("relative_l2_mean")
    monkeypatch.setattr(
        sys, "argv", ["digits_ratios.py", str(tmp_path / "outputs/study"), "--picture", str(tmp_path / "ratios.png")]
    )
    assert claims.main() == 0
    printed = capfd.readouterr().out
    with Image.open(tmp_path / "ratios.png") as picture:
        assert picture.width > 1000
    (claim,) = rows_of(printed, "Our own, as shares of the best distance published")
    best = min(apart["reuse"], apart["taylorseer"], apart["goc"])
    share = apart["searched_learned"] / best
    assert float(claim["searched_learned"]) == pytest.approx(share, abs=0.006)
    assert claim["evaluations"] == "5"
    assert ("MISSED (above: digits" in claim["reached"]) == (share > 0.5)
    (cost,) = rows_of(printed, "What calibration costs")
    # the search: 96 x (20 + 120 x 5); the training: 512 x 20 + 4 x 200 x 16 x 5
    assert cost["calibration, evaluations"] == f"{59_520 + 10_240 + 64_000:,}"
    assert cost["a rival as close needs"] == "20.0"  # as only one ratio was run
    assert cost["paid after images"] == f"{133_760 / 15:,.0f}"
    (pair,) = rows_of(printed, "Anchored GOC less reuse: mean distance, in pairs")
    assert float(pair["digits"].split("(")[0]) == pytest.approx(apart["goc_anchored"] - apart["reuse"], abs=6e-5)
    numbers = rows_of(printed, "DDIM-20, guidance 1.0: digits")
    assert [row["method"] for row in numbers][-1] == "`goc`"  # of as many evaluations the farthest is the last
    assert {row["cached"] for row in numbers} == {"75.0%"}


def test_a_mean_above_the_claim_is_a_miss_that_names_the_models() -> None:
    rows = [{"model": model, "cfg_scale": 1.0, "steps": 20, "evaluations": 5.0, "method": method,
             "relative_l2_mean": distance}
            for model, published, composed, learned in (("a", 0.1, 0.2, 0.04), ("b", 0.1, 0.08, 0.08))
            for method, distance in (("taylorseer", published), ("uniform+taylor", composed),
                                     ("searched_learned", learned))]  # fmt: skip
    (row,) = claims.claims(pd.DataFrame(rows), claims.PUBLISHED)
    assert row["reached"] == "0.60 ± 0.28: MISSED (above: b 0.80)"
    assert row["best"] == "taylorseer"
    (row,) = claims.claims(pd.DataFrame(rows), claims.COMPOSED)
    assert row["reached"] == "0.70 ± 0.42: MISSED (above: b 1.00)"
    assert row["best"] == "taylorseer, uniform+taylor"


def test_a_folder_without_runs_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["digits_ratios.py", str(tmp_path)])
    assert run_command(claims.main) == 1
    assert capsys.readouterr().err == "error: no finished runs there\n"
