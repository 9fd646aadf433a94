"""One sample has one vote: a run counts once, wherever it lies and whatever it is called."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmarks.reports import result_of

from goc.report.collect import find
from goc.report.frame import over_seeds, table
from goc.report.study import main

pytestmark = pytest.mark.usefixtures("without_plots")


def write(folder: Path, seed: int = 0, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> Path:
    """A finished run, written later than those before it."""
    folder.mkdir(parents=True)
    result = result_of(3, 20)
    result["config"]["seed"] = result["measurement"]["seed"] = seed
    result["metrics"]["fid"] += seed
    change(result)
    (folder / "result.json").write_text(json.dumps(result))
    written = 1_700_000_000 + len(list(folder.parent.iterdir()))
    os.utime(folder / "result.json", (written, written))
    return folder


def carried_out_again(result: dict[str, Any]) -> None:
    """What may differ between two runs of the same samples."""
    result["cost"] |= {"ms_per_image": 99.0, "latency_ratio": 0.5, "peak_memory_bytes": 1}
    result |= {"git_commit": "0123", "device": "cuda", "threads": 8, "software": {"torch": "9"}}
    result["config"] |= {"name": "other", "device": "cuda", "tracker": "csv", "threads": 8}
    result["metrics"]["fid"] *= 1 + 1e-7


def test_a_copy_of_a_study_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1, 2):
        write(tmp_path / "outputs" / str(seed), seed)
        write(tmp_path / "backup" / str(seed), seed)
    write(tmp_path / "outputs" / "again", 1, carried_out_again)
    assert main([str(tmp_path / "outputs"), str(tmp_path / "backup"), "--out", str(tmp_path / "both")]) == 0
    shown = capsys.readouterr()
    for name in ("backup/0", "backup/1", "backup/2"):
        assert f"skipped: {tmp_path / name}: the same run as {tmp_path / 'outputs'}" in shown.err
    (row,) = pd.read_csv(tmp_path / "both" / "tradeoff.csv").to_dict("records")
    assert row["seed"] == "0,1,2"
    assert row["fid_se"] == pytest.approx(0.1 / 3**0.5)
    assert row["fid_spread"] == pytest.approx(1.0)
    assert len(pd.read_csv(tmp_path / "both" / "results.csv")) == 3
    assert "<dt>" in (tmp_path / "both" / "report.html").read_text()


def test_of_different_results_of_one_run_the_last_written_counts_and_both_are_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    last = write(tmp_path / "b", change=lambda result: result["metrics"].update(fid=50.0))
    collected = find([tmp_path])
    assert [folder for folder, _ in collected.runs] == [last]
    ((folder, why),) = collected.skipped
    assert folder == str(first)
    assert f"another result of the same run as {last}, which was written last and counts: metrics.fid=" in why
    assert why.endswith(" here, 50 there")
    os.utime(first / "result.json")
    assert [folder for folder, _ in find([tmp_path]).runs] == [first]


def test_of_equal_results_the_one_that_knows_most_counts(tmp_path: Path) -> None:
    write(tmp_path / "a", change=lambda result: result["metrics"].pop("is"))
    more = write(tmp_path / "b")
    write(tmp_path / "c")
    collected = find([tmp_path])
    assert [folder for folder, _ in collected.runs] == [more]
    assert len(collected.skipped) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result["config"].update(steps=51),
        lambda result: result["config"].update(cache_ratio=0.1),
        lambda result: result["config"]["predictor"].update(path="other.json"),
        lambda result: result["measurement"].update(model_sha256="0123"),
        lambda result: (result["config"].update(num_samples=40), result["measurement"].update(num_samples=40)),
    ],
)
def test_runs_that_differ_in_what_they_measured_both_count(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", change=change)
    collected = find([tmp_path, tmp_path])
    assert (len(collected.runs), collected.skipped) == (2, [])


def test_a_seed_has_one_vote_also_where_rows_were_not_collected() -> None:
    once = over_seeds(table([result_of(3, 20)]))
    twice = over_seeds(table([result_of(3, 20), result_of(3, 20)]))
    pd.testing.assert_frame_equal(once, twice)


def test_of_two_results_of_a_run_the_one_over_more_samples_counts(tmp_path: Path) -> None:
    def over(count: int, drift: float) -> Any:
        return lambda result: result.update(
            samples={"folder": "samples", "compared": count}, distance={**result["distance"], "drift": drift}
        )

    more = write(tmp_path / "a", change=over(20, 0.1))
    fewer = write(tmp_path / "b", change=over(10, 0.3))
    collected = find([tmp_path])
    assert [folder for folder, _ in collected.runs] == [more]
    assert collected.skipped == [(str(fewer), f"the same run as {more}, whose distances are over more samples")]
