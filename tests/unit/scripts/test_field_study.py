"""The tables of digits_field: a way's distance as a share of what whole steps reach at its cost."""

import digits_field as study
import pandas as pd
import pytest


def ran(way: str, macs: float, distance: float, model: str = "a", whole: bool = True) -> dict[str, object]:
    return {"models": "family", "model": model, "way": way, "whole": whole, "steps": 50, "macs": macs, "time": macs,
            "distance": distance, "error": 0.003, "fid": 2.0}  # fmt: skip


def test_whole_steps_reach_what_the_best_of_them_does_at_no_more_cost() -> None:
    # one over the cost; a way that costs as much and is farther does not count, in whatever order they are
    rows = pd.DataFrame([ran("far", 20, 0.9), ran("x", 10, 0.1), ran("y", 20, 0.05), ran("worse", 40, 0.2)])
    for own in (rows, rows[::-1]):
        assert study.reached(own, "macs", 20.0) == pytest.approx(0.05)
        assert study.reached(own, "macs", 14.0) == pytest.approx(1 / 14)
        assert study.reached(own, "macs", 40.0) == pytest.approx(0.05)
        assert pd.isna(study.reached(own, "macs", 9.0))


def test_shares_are_of_each_model_and_then_averaged() -> None:
    rows = [ran("x", 10, 0.1), ran("y", 20, 0.05), ran("tokens", 20, 0.1, whole=False),
            ran("x", 10, 0.2, "b"), ran("y", 20, 0.1, "b"), ran("tokens", 20, 0.1, "b", whole=False),
            ran("cheap", 5, 1.0, whole=False), ran("cheap", 5, 1.0, "b", whole=False)]  # fmt: skip
    table = study.tables(pd.DataFrame(rows))["family"].set_index("way")
    assert list(table.index) == ["cheap", "x", "y", "tokens"] or list(table.index) == ["cheap", "x", "tokens", "y"]
    assert table.loc["tokens", "at equal MACs"] == "1.50"  # 2 and 1
    assert table.loc["y", "at equal time"] == "1.00"
    assert table.loc["cheap", "at equal MACs"] == ""
    assert table.loc["tokens", "to converged"] == "0.1000(21)"  # 0.003 / sqrt(2)
