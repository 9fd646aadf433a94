"""What of a study is drawn in Weights & Biases, and which settings of trackers there are."""

from typing import Any

import pytest
from paired import content

from goc.config import compose_config, validate
from goc.report.frame import over_seeds, series_names, table
from goc.system.errors import ConfigError
from goc.tracking.wandb_log import charts, curves


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tracker=mlflow", "tracker=mlflow: must be one of none, csv, wandb"),
        ("wandb.mode=shared", "wandb.mode=shared: must be one of online, offline, or null"),
        ("wandb.timeout_s=0", "wandb.timeout_s=0.0: must be more than 0 and at most 1e+08"),
    ],
)
def test_bad_settings_name_the_key_and_what_is_allowed(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(compose_config([override]))
    assert str(raised.value) == expected


def run(method: str, cached: float, fid: float | None, cfg_scale: float = 1.0) -> dict[str, Any]:
    """What the table takes of a result."""
    return content(method, cached, {"fid": fid}, cfg_scale=cfg_scale, model="m", cost={"macs_saved": 0.9 * cached})


def test_a_curve_is_a_method_in_order_of_cost_and_no_cache_is_a_level() -> None:
    runs = [
        run("goc", 0.6, 5.0),
        run("none", 0.0, 3.0),
        run("goc", 0.2, 4.0),
        run("goc", 0.4, None),
        run("fora", 0.8, 9),
    ]
    points = over_seeds(table(runs))
    lines = curves(points.assign(series=series_names(points)), "fid")
    rounded = {name: [(round(cost, 6), fid) for cost, fid in points] for name, points in lines.items()}
    assert rounded == {"goc": [(8, 5), (16, 4)], "fora": [(4, 9)], "no cache": [(4, 3), (20, 3)]}


def test_runs_of_different_measurements_never_share_a_chart() -> None:
    made = charts(over_seeds(table([run("goc", 0.2, 4.0), run("goc", 0.2, 2.0, cfg_scale=1.5)])))
    # of FID, as nothing else was measured, and of the best rows
    assert sorted(key.split(" (")[0] for key in made) == ["tradeoff/best"] * 2 + ["tradeoff/fid"] * 2
    assert {key.split(",")[1] for key in made} == {" guidance 1.0", " guidance 1.5"}


def test_a_study_has_one_panel_a_question_and_rows_far_beyond_do_not_flatten_it() -> None:
    runs = [run("none", 0.0, 3.0), *(run("goc", ratio, fid) for ratio, fid in ((0.2, 3.1), (0.4, 3.2), (0.6, 90.0))),
            run("reuse", 0.7, 4.0)]  # fmt: skip
    for number, result in enumerate(runs[1:], 1):
        result["distance"] = {"drift": 0.1 * number, "mse": 0.01, "relative_l2_mean": 0.02 * number}
        result["cost"] |= {"latency_ratio": 1 - 0.1 * number, "ms_per_image": 10.0 - number}
    for number, result in enumerate(runs):
        result["converged"] = {"mean": 0.1 + 0.01 * number}
    made = charts(over_seeds(table(runs)))
    assert list(made) == ["tradeoff/converged", "tradeoff/relative_l2_mean", "tradeoff/fid", "cost/time",
                          "tradeoff/best"]  # fmt: skip
    titles = [made[key].spec.string_fields["title"] for key in list(made)[:4]]
    assert [title.split("? (")[0] for title in titles] == [
        "Which ends closest to the converged solution, at which cost",
        "Which stays closest to its run without a cache",
        "Which has the best FID, at which cost",
        "What does each cost in time",
    ]
    assert "FID to the real images, without 1 rows far beyond; m, guidance 1.0" in titles[2]
    drawn = made["tradeoff/fid"].table
    assert sorted(row[drawn.columns.index("lineVal")] for row in drawn.data) == [3.0, 3.0, 3.1, 3.2, 4.0]
    times = made["cost/time"].table
    assert times.data[0] == ["reuse, DDIM-20, 6 evaluations", 6.0]
    best = made["tradeoff/best"]
    assert best.columns[:4] == ["method", "steps", "cached", "evaluations"]
    assert len(best.columns) <= 8
    assert best.data[0][:4] == ["no cache", "DDIM-20", "0.0 %", "20"]
