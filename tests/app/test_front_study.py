"""The tables of the fronts' study: shares of the best published distance, and misses and ties that are said."""

import digits_front as study
import numpy as np

from goc.report.columns import columns
from goc.report.pairs import Point

MODELS = ("a", "b")


def run(
    model: str, method: str, evaluations: float, distance: float, folder: str = "", guidance: float = 1.0
) -> study.Run:
    """A run of four samples whose distances spread by 0.1 % about their mean."""
    each = distance * (1 + 0.001 * np.array([-1.0, 1.0, 0.5, -0.5]) * (1 if method == "front" else -1))
    name = columns()[study.DISTANCE].contribution or ""
    row = {study.DISTANCE: distance, "solver": "DDIM-20", "compared": 4}
    point = Point(rows={0: row}, influence={0: {name: (each - distance) / len(each)}})
    return study.Run(model, guidance, 20, evaluations, method, folder, distance, point)


def test_shares_are_of_the_best_published_cache_of_at_most_as_many_evaluations() -> None:
    runs = [run(model, *rest) for model in MODELS for rest in (
        ("taylorseer", 5, 0.1), ("goc", 4, 0.2), ("foca", 6, 0.01), ("dynamic", 5, 0.05))]  # fmt: skip
    runs += [run("a", "front", 5, 0.04, "fronts"), run("b", "front", 5, 0.06, "fronts")]
    (row,) = study.shares(runs)
    assert row == {"guidance": 1.0, "computed": "5 of 20", "best published": "taylorseer", "share": "0.50 ± 0.14",
                   "a": "0.40", "b": "0.60"}  # fmt: skip
    (said,) = study.asked(runs)
    assert said == {"of": "75 and 80 % of 20", "asked for": 0.45, "reached": "0.50 ± 0.14", "verdict": "**MISSED**",
                    "cells": 2, "above": 1}  # fmt: skip
    (near,) = study.closest(runs)
    assert near["a"].startswith("dynamic -0.01")
    assert near["b"].endswith("**farther**")
    holds = [*runs[:-1], run("b", "front", 5, 0.05, "fronts")]
    assert next(study.asked(holds))["verdict"] == "holds"
    assert next(study.closest(holds))["b"].endswith("tie")


def test_other_fronts_are_shares_of_the_models_own_and_seven_stand_beside_ten() -> None:
    runs = [run("a", "front", 7, 0.02, "fronts"), run("a", "front", 7, 0.015, "bound"),
            run("a", "front", 7, 0.03, "bound", guidance=1.5), run("a", "goc", 10, 0.019)]  # fmt: skip
    assert [*study.others(runs)] == [
        {"guidance": 1.0, "model": "a", "computed": "7 of 20", "front": "0.0200", "bound": "0.75"}
    ]
    (row,) = study.seven(runs)
    assert row["less, in pairs"].endswith("**farther**")
    assert (row["front, 7"], row["goc, 10"]) == ("0.0200", "0.0190")


def test_a_mean_of_one_model_has_no_spread() -> None:
    assert study.mean([0.4]) == "0.40"
    assert study.mean([0.4, 0.6]) == f"0.50 ± {np.std([0.4, 0.6], ddof=1):.2f}"
    assert study.best([], run("a", "front", 5, 0.1, "fronts"), published=True) is None
