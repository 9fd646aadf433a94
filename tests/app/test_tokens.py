"""The embedded models that have tokens, as a user runs them."""

import math
from pathlib import Path

import pytest
from application import Run
from checkout import SMALL, only_result


@pytest.mark.parametrize("model", ["fashion", "fashion_flow"])
def test_a_model_that_has_tokens_runs_with_all_metrics_of_the_digits(model: str, run_here: Run, tmp_path: Path) -> None:
    run_here(f"model={model}", "cache_ratio=0.4", *SMALL, "latency_repeats=0")
    result = only_result(tmp_path / "outputs")
    assert result["config"]["model"]["input_size"] == 32
    assert result["cost"]["cache_ratio"] == pytest.approx(0.4)
    assert {"fid", "is", "kid", "precision", "recall"} <= result["metrics"].keys()
    assert all(math.isfinite(number) for number in result["metrics"].values() if isinstance(number, float))
    assert result["distance"]["mse"] > 0
    assert (next((tmp_path / "outputs").rglob("samples.png"))).stat().st_size > 0
