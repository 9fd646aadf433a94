"""benchmark.py pipeline: rates of the parts and of the whole, and the hours that follow. No test looks at a time."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import benchmark
import pytest

from goc.check import pipeline_rates, pipeline_scores
from goc.check.pipeline_parts import TINY, PaperRow
from goc.check.pipeline_rates import Seconds, table
from goc.metrics.evaluate import Scores
from goc.system.command import run_command

PARTS = ["sampler", "VAE decode", "VAE decode, channels last", "VAE decode, channels last, bf16", "features", "writing"]


@pytest.mark.slow
def test_the_command_measures_every_part_and_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(["pipeline", "--tiny"]) == 0
    rows = json.loads((tmp_path / "outputs" / "benchmark" / "pipeline.json").read_text())["rows"]
    assert [row["part"] for row in rows] == [*PARTS, "metrics", "one after the other", "overlapped"]
    assert all(list(row) == pipeline_rates.COLUMNS for row in rows)
    for row in rows:
        assert row["hours"] > 0
        if row["part"] != "metrics":
            assert row["images_per_s"] * row["seconds_a_batch"] == pytest.approx(TINY.batch)
            assert row["error_s"] >= 0


def test_hours_are_those_of_all_images_and_of_the_whole_with_the_metrics() -> None:
    row = PaperRow(batch=10, images=36_000)
    seconds = {"sampler": Seconds(2.0, 0.1), "one after the other": Seconds(4.0, 0.3), "overlapped": Seconds(2.5, 0.2)}
    rows = table(row, seconds, metrics=Seconds(1800.0, 144.0)).set_index("part")
    assert list(rows.index) == ["sampler", "metrics", "one after the other", "overlapped"]
    assert rows["images_per_s"].to_dict() == pytest.approx(
        {"sampler": 5.0, "metrics": math.nan, "one after the other": 2.5, "overlapped": 4.0}, nan_ok=True
    )
    assert rows["of_sampler"]["overlapped"] == 0.8
    assert rows["hours"].to_dict() == pytest.approx(
        {"sampler": 2.0, "metrics": 0.5, "one after the other": 4.5, "overlapped": 3.0}
    )
    assert rows["hours_error"]["overlapped"] == pytest.approx(math.hypot(0.2, 0.04))


def test_the_error_is_that_of_the_mean_and_unknown_of_one() -> None:
    assert Seconds.of([1.0, 2.0, 3.0]) == Seconds(2.0, pytest.approx(1 / math.sqrt(3)))
    assert math.isnan(Seconds.of([1.0]).error)


def test_the_metrics_of_few_samples_tell_the_time_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which metrics take 7 s and 0.1 s a sample, and precision and recall 1 ms for each comparison."""
    clock = [0.0]

    def evaluate(metrics: tuple[str, ...], batches: object, count: int, reference: SimpleNamespace) -> Scores:
        real = len(reference.features)
        clock[0] += 1e-3 * (count + real) ** 2 if metrics == ("prc",) else 7.0 + 0.1 * count
        return Scores()

    monkeypatch.setattr(pipeline_scores, "evaluate", evaluate)
    monkeypatch.setattr(pipeline_scores, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    row = PaperRow(batch=4, images=1000, real_images=12, scored=16, feature_size=3)
    expected = 7.0 + 0.1 * 1000 + 1e-3 * (1000 + 12) ** 2
    assert pipeline_scores.score_seconds(row, tmp_path) == pytest.approx([expected] * pipeline_scores.REPEATS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "DiT-M/2"], "--model DiT-M/2"),
        (["--batches", "1"], "--batches=1: must be at least 2"),
        (["--steps", "1"], "--steps=1: must be at least 2"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: benchmark.main(["pipeline", "--tiny", *options])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
