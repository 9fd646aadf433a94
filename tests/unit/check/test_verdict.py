"""What goc check's page begins with: yes only if all was compared, and advice only from rates that were measured."""

from typing import Any

import pandas as pd
import pytest

from goc.check import verdict
from goc.check.setting import FULL, Case, Outcome, Report, Table

NAN = float("nan")


def outcome(name: str, **said: Any) -> Outcome:
    return Outcome(Table(name, name, "", pd.DataFrame(), {}), **said)


def passed(name: str) -> Report:
    return Report(name, 1.0, outcome(name, findings=["All agree.", "It is quick."]))


def reports(**others: Report) -> list[Report]:
    return [others.get(name, passed(name)) for name in verdict.COMPARED]


def test_it_is_right_only_if_all_was_compared() -> None:
    answer = verdict.right(reports())
    assert (answer.short, answer.state) == ("Yes", "good")
    assert answer.lines[1].endswith("beside float64: All agree.")
    lacking = Report("kernels", 1.0, outcome("kernels", missing="Triton is not installed"))
    answer = verdict.right(reports(kernels=lacking))
    assert answer.short == "Yes"
    assert answer.lines[1].endswith("not compared: Triton is not installed")
    for report in (Report("workers", 9.0, error="took longer than 9 s"), Report("workers", 0.0, started=False)):
        assert verdict.right(reports(workers=report)).short == "Yes, as far as it was compared"
    assert verdict.right([passed("oracles")]).state == "unknown"
    assert "--only" in verdict.right([passed("oracles")]).lines[1]
    assert verdict.right([passed("steps-bf16-8")]).short == "Not known"


def test_one_wrong_value_makes_it_wrong() -> None:
    wrong = Report("oracles", 1.0, outcome("oracles", failures=["case 3: off by 1"], findings=["54 of 55 agree."]))
    answer = verdict.right(reports(oracles=wrong, workers=Report("workers", 9.0, error="killed")))
    assert (answer.short, answer.state) == ("No", "bad")
    assert answer.lines[0].endswith("case 3: off by 1")


def steps(bare: float, goc: float, stack: float = NAN) -> pd.DataFrame:
    return pd.DataFrame({"method": ["none", "goc 50 %", "goc stack 50 %"], "images_per_s": [bare, goc, stack]})


def rated(measured: dict[Case, pd.DataFrame]) -> verdict.Rows:
    return verdict.records(verdict.rates(measured).frame)


MEASURED = {
    Case("bf16", 32): steps(35.0, 57.0, 67.0),
    Case("bf16", 32, compiled=True): steps(45.0, 80.0),
    Case("tf32", 32): steps(19.0, 34.0, 38.0),
    Case("bf16", 8): steps(30.0, 56.0, 60.0),
}


def test_the_best_case_is_that_of_most_images_with_goc() -> None:
    answer = verdict.fast(FULL, rated(MEASURED), [passed("pipeline")])
    assert answer.short == "80 images/s with GOC at 50 %, 45 without a cache"
    assert "bf16, compiled, 32 images: GOC at 50 % is 1.78 times" in answer.lines[0]
    assert answer.lines[-1] == "It is quick."
    assert verdict.fast(FULL, [], []).short == "Not measured"
    assert verdict.fast(FULL, rated({Case("bf16", 8): steps(3.0, NAN)}), []).short == "Not measured"


def test_each_setting_is_advised_from_rates_that_differ_in_it_alone() -> None:
    advice = {one.setting: one for one in verdict.advice(rated(MEASURED))}
    assert advice["compile"].why == "80 images/s, with compile=false 57 (bf16, 32 images, GOC at 50 %)."
    assert advice["precision"].given == "precision=bf16"
    assert "57 images/s, with precision=tf32 34 (32 images, not compiled" in advice["precision"].why
    assert (advice["batch_size"].use, advice["batch_size"].given) == ("either", "")  # 57 and 56
    assert "67 images/s, with site=branch 57 (bf16, 32 images" in advice["site"].why
    assert advice["site"].given == ""  # another method
    typed = verdict.summary(FULL, [], rated(MEASURED), [], []).typed
    assert typed == "goc run method=goc cache_ratio=0.5 compile=true precision=bf16"


@pytest.mark.parametrize("cases", [[], [Case("bf16", 32)], [Case("bf16", 32, compiled=True), Case("tf32", 32)]])
def test_without_a_rate_to_compare_with_nothing_is_advised(cases: list[Case]) -> None:
    advised = verdict.advice(rated({case: MEASURED[case] for case in cases}))
    assert {one.setting for one in advised} <= {"site"}


def test_the_bound_is_that_of_the_best_case() -> None:
    columns = ("precision", "batch", "compiled", "step", "measured_ms", "least_ms", "bound", "of_bound")
    roofline = [
        dict(zip(columns, row, strict=True))
        for row in (
            ("bf16", 32, False, "full", 45.0, 15.0, "compute", 1 / 3),
            ("bf16", 32, True, "full", 36.0, 18.0, "compute", 1 / 2),
            ("bf16", 32, True, "cached", 2.7, 0.8, "memory", 0.3),
        )
    ]
    answer = verdict.far(rated(MEASURED), roofline, [])
    assert answer.short == "A full step takes 2.0 times the least that an H100 could"
    assert answer.lines[:2] == [
        "A full step: 36 ms, at least 18 (bound by compute).",
        "A cached step (reuse): 2.7 ms, at least 0.8 (bound by memory).",
    ]
    assert verdict.far(rated(MEASURED), roofline[:1], []).short == "Not measured"


def test_what_was_not_run_is_all_said() -> None:
    lacking = Report("kernels", 1.0, outcome("kernels", missing="Triton is not installed"))
    killed, late = Report("workers", 9.0, error="killed"), Report("profile", 0.0, error="no time", started=False)
    wrong = Report("training", 9.0, outcome("training", failures=["off"]))
    known = ["oracles", "kernels", "workers", "profile", "training", "steps-bf16-8"]
    assert verdict.left_out([passed("oracles"), lacking, killed, late, wrong], known) == [
        "kernels: Triton is not installed",
        "workers: killed",
        "profile: no time",
        "steps-bf16-8: not asked for (--only)",
    ]


def test_graphs_are_advised_for_the_batches_that_they_are_quicker_with() -> None:
    columns = ("method", "batch", "graph_images_per_s", "eager_images_per_s", "times")
    rows = [("none", 1, 9.0, 3.0, 3.0), ("goc 50 %", 1, 8.0, 4.0, 2.0), ("goc 50 %", 32, 57.0, 56.5, 1.009)]
    report = Report("graphs", 1.0, Outcome(Table("graphs", "", "", pd.DataFrame(rows, columns=list(columns)), {})))
    (advice,) = verdict.graphs([passed("oracles"), report])
    assert advice.use == "graphs=true with 1 image"
    assert advice.why.startswith("1 image: 8 images/s, with graphs=false 4; 32 images: 57 images/s")
    assert verdict.graphs([passed("oracles")]) == verdict.graphs([passed("oracles"), Report("graphs", 1.0)]) == []
