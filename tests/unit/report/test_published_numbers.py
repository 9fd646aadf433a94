"""The table of published numbers: read, priced, matched with runs, and laid under them in the plots."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from paired import Runs, content, pointed, runs_in

from goc.config import compose_config, flat, label
from goc.report import plots, published
from goc.report.page import write_html
from goc.report.published import FORM, PUBLISHED, Published, read_published
from goc.report.tables import markdown, with_error
from goc.system.errors import GocError

TEXT = PUBLISHED.read_text(encoding="utf-8")
HEAD, *LINES = TEXT.splitlines()
GOOD = "DiT-XL/2-256,ddim,50,1.5,fora,schedule.interval=3,,50000,8.59,,2.191,3.88,6.43,229.02,,,,A paper,quoted"
N = 50_000


def rows(**wanted: object) -> list[Published]:
    return [row for row in read_published() if all(getattr(row, key) == value for key, value in wanted.items())]


def run(
    method: str,
    fid: float,
    steps: int = 50,
    cached: float = 0.0,
    samples: int = N,
    se: float | None = 0.05,
    schedule: dict | None = None,
    predictor: dict | None = None,
    drift: float | None = None,
    **result: object,
) -> dict:
    """What a run of DiT-XL/2 on ImageNet leaves."""
    return content(
        method, cached, {"fid": fid, "fid_se": se, "is": 240.0}, steps, cfg_scale=1.5, model="DiT-XL/2-256",
        distance={"drift": drift, "drift_se": 0.02} if drift is not None else {},
        cost={"macs_saved": cached, "gmacs_per_image": 23724.0 / 2 * (1 - cached)},
        config={"num_samples": samples, "batch_size": 50, "distance_samples": samples,
                "schedule": {"name": method, **(schedule or {})}, "predictor": {"name": "taylor", **(predictor or {})},
                "model": {"name": "DiT-XL/2-256", "extractor": "inception"}},
        **result,
    )  # fmt: skip


def taylorseer(interval: int | None, fid: float, order: int = 3, cached: float = 0.64, **more: object) -> dict:
    return run(
        f"taylorseer+taylor+{order}",  # as tables call it, since another method has a Taylor expansion of its own order
        fid, cached=cached, schedule={"name": "taylorseer", "interval": interval}, predictor={"order": order}, **more,
    )  # fmt: skip


def test_runs_have_the_names_that_these_have() -> None:
    typed = ["model=dit_xl_2_256", "steps=50", "method=taylorseer", "predictor.order=3", "schedule.interval=3"]
    assert label(compose_config(typed).way) == taylorseer(3, 2.3)["method"]


def beside(folder: Path, *results: dict) -> pd.DataFrame:
    frame, _ = pointed(runs_in(folder, *results))
    return published.beside(frame, with_error)


def fids(table: pd.DataFrame) -> dict[float, str]:
    """The verdict on each published FID."""
    of_fid = table[table["metric"] == "fid"] if len(table) else pd.DataFrame({"published": [], "verdict": []})
    return dict(zip(of_fid["published"], of_fid["verdict"], strict=True))


# ---------------------------------------------------------------- the table


def test_every_row_of_the_fields_table_is_there_with_what_was_checked(published_data: Path) -> None:
    """The table that the project was given, whose settings are in the papers' words."""
    given = pd.read_csv(published_data / "published_dit.csv")
    here = {(row.method, row.numbers["fid"], row.numbers.get("sfid")) for row in rows(steps=50, sampler="ddim")}
    assert set(given[["method", "fid", "sfid"]].itertuples(index=False, name=None)) <= here


def test_four_papers_disagree_on_the_uncached_model() -> None:
    uncached = rows(method="none", steps=50, model="DiT-XL/2-256")
    assert sorted(row.numbers["fid"] for row in uncached) == [2.18, 2.264, 2.32, 2.43]
    assert [row.checked for row in uncached] == ["paper", "repository", "quoted", "quoted"]


@pytest.mark.parametrize("row", [row for row in read_published() if row.cells is not None], ids=lambda row: row.name)
def test_flops_of_papers_are_twice_our_macs(row: Published) -> None:
    """Of all rows whose cells are known here, to half a percent."""
    said = row.flops_t or (row.speedup and 23.74 / row.speedup)
    if said is not None:
        assert row.gmacs is not None
        assert 2e-3 * row.gmacs == pytest.approx(said, rel=5e-3)


def test_a_row_whose_method_is_not_here_is_priced_by_what_its_paper_says() -> None:
    (row,) = rows(method="procache")
    assert row.cells is None
    assert row.gmacs == 1e3 * 8.18 / 2
    assert row.evaluations == pytest.approx(50 * 8.18 / 23.724, rel=1e-4)
    (l2c,) = rows(method="l2c", steps=50)
    assert l2c.evaluations == pytest.approx(50 * (1 - 0.22))


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [("fid", "3.x", "'3.x' must be a number of at least 0"), ("fid", "nan", "'nan' must be a number"),
     ("sfid", "-1", "'-1' must be a number"), ("steps", "0", "'0' must be a whole number of at least 1"),
     ("steps", "50.5", "'50.5' must be a whole"), ("cached", "1", "'1' must be a share"),
     ("checked", "seen", "'seen' must be one of paper, repository, quoted"), ("model", "", "'' must be text"),
     ("source", "", "'' must be text"), ("samples", "", "'' must be a whole number"),
     ("settings", "schedule.intervals=3", "schedule.intervals=3: Key 'intervals' not in 'Fora'"),
     ("settings", "schedule.interval=three", "schedule.interval=three: Value 'three'"),
     ("settings", "schedule.interval=51", "schedule.interval=51: must be in [1, 50]")],
)  # fmt: skip
def test_a_malformed_row_is_refused_with_its_line_and_column(
    tmp_path: Path, column: str, value: str, told: str
) -> None:
    cells = GOOD.split(",")
    cells[list(FORM).index(column)] = value
    path = tmp_path / "table.csv"
    path.write_text("\n".join([HEAD, GOOD, ",".join(cells)]), encoding="utf-8")
    with pytest.raises(GocError) as error:
        read_published(path)
    assert str(error.value).startswith(f"{path}: line 3, column {column}: {told}")


@pytest.mark.parametrize(
    ("lines", "told"),
    [([HEAD, GOOD + ",more"], f"line 2: must have {len(FORM)} columns, not {len(FORM) + 1}"),
     ([HEAD.replace("fid", "FID", 1), GOOD], "line 1: must be model,"),
     ([], "line 1: must be model,"),
     ([HEAD, GOOD.replace("3.88,6.43,229.02", ",,")], "line 2, columns fid, sfid"),
     ([HEAD, GOOD.replace("A paper", '"A paper')], "cannot be read")],
)  # fmt: skip
def test_a_malformed_table_is_refused(tmp_path: Path, lines: list[str], told: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(GocError) as error:
        read_published(path)
    assert str(error.value).startswith(f"{path}: {told}")


# ---------------------------------------------------------------- runs that repeat a row


def test_a_number_within_two_standard_errors_is_reproduced(tmp_path: Path) -> None:
    verdicts = fids(beside(tmp_path, run("none", 2.30, se=0.05)))
    assert verdicts == {2.264: "reproduced", 2.32: "reproduced", 2.18: "not reproduced", 2.43: "not reproduced"}


def test_fewer_samples_and_another_protocol_do_not_compare(tmp_path: Path) -> None:
    few = run("none", 2.30, samples=2000)
    assert set(fids(beside(tmp_path, few)).values()) == {"not comparable: 2,000 samples"}
    features, channels, classes = run("none", 2.30), run("none", 2.30), run("none", 2.30)
    features["config"]["model"]["extractor"] = "digits"
    channels["config"]["cfg_channels"] = 4
    classes["config"]["class_labels"] = "balanced"
    for other, told in (
        (features, "model.extractor=digits"), (channels, "cfg_channels=4"), (classes, "class_labels=balanced"),
    ):  # fmt: skip
        assert set(fids(beside(tmp_path / told, other)).values()) == {f"not comparable: {told}"}


def test_a_run_without_its_error_is_not_judged(tmp_path: Path) -> None:
    table = beside(tmp_path, run("none", 2.30, se=None))
    assert set(table["verdict"]) == {"error not known"}


def test_settings_decide_which_rows_a_run_repeats(tmp_path: Path) -> None:
    assert fids(beside(tmp_path, taylorseer(3, 2.35))) == {2.34: "reproduced"}
    for name, other in (
        ("order", taylorseer(3, 2.35, order=2)),
        ("schedule", taylorseer(4, 2.35, cached=0.72, order=2)),
    ):
        verdicts = fids(beside(tmp_path / name, other))
        # two papers do not say their order
        assert verdicts == ({} if name == "order" else {2.55: "not reproduced", 2.49: "not reproduced"})


def test_a_schedule_that_follows_from_the_cache_ratio_repeats_a_row_as_well(tmp_path: Path) -> None:
    """Settings are compared as what they come to: intervals 7 and 8 both compute 8 of 50 steps, and not the same."""
    share = np.array(next(row.shares for row in rows(settings="schedule.interval=7")))
    assert fids(beside(tmp_path, taylorseer(None, 3.40, cached=0.84, cached_share=share.tolist()))) == {
        3.46: "reproduced"
    }
    assert fids(beside(tmp_path / "8", taylorseer(8, 3.40, cached=0.84, cached_share=np.roll(share, 1).tolist()))) == {}


def test_every_row_of_a_method_here_is_repeated_by_a_run_with_its_settings(tmp_path: Path) -> None:
    """By configs as runs leave them: with every setting, and by the names that tables have."""
    typed = [row for row in rows(model="DiT-XL/2-256") if row.cells is not None]
    results = []
    each = {
        (f"method={row.method}", f"steps={row.steps}", *(row.words or ())): (row.cached, row.shares) for row in typed
    }
    for words, (cached, shares) in each.items():
        config = compose_config(["model=dit_xl_2_256", "cfg_scale=1.5", f"num_samples={N}", *words])
        named = run(label(config.way), 2.3, cached=cached, cached_share=shares)
        results.append({**named, "config": flat(config)})
    table = beside(tmp_path, *results)
    # two sources name TaylorSeer's N = 4 without its order, which a run of either order repeats
    assert len(table[table["metric"] == "fid"]) == len(typed) + 2


def test_another_site_is_another_method(tmp_path: Path) -> None:
    lite = taylorseer(3, 2.35)
    lite["method"], lite["config"]["site"] = "taylorseer+taylor+3+stack", "stack"
    assert beside(tmp_path, lite).empty


def test_a_share_alone_is_matched_where_that_is_all_that_is_published(tmp_path: Path) -> None:
    learned = run("l2c", 2.25, cached=0.21, schedule={"threshold": None})
    assert fids(beside(tmp_path, learned)) == {2.269: "reproduced"}
    other = run("l2c", 2.25, cached=0.21, schedule={"threshold": 0.2})
    assert beside(tmp_path / "other", other).empty


def test_drift_is_compared_with_the_published_fid_to_uncached_images(tmp_path: Path) -> None:
    table = beside(tmp_path, taylorseer(9, 4.9, order=4, cached=0.86, drift=2.31))
    drift = table[table["metric"] == "drift"].iloc[0]
    assert (drift["published"], drift["verdict"]) == (2.33, "reproduced")


def test_nothing_is_beside_another_model_guidance_or_solver(tmp_path: Path) -> None:
    frame, _ = pointed(runs_in(tmp_path, run("none", 2.3)))
    for change in ({"model": "digits"}, {"cfg_scale": 4.0}, {"sampler": "unipc"}):
        assert published.laid_beside(frame.assign(**change)) == []
        assert published.beside(frame.assign(**change), with_error).empty


def test_a_solver_at_learned_times_repeats_no_published_number(tmp_path: Path) -> None:
    assert not beside(tmp_path, run("none", 2.3)).empty
    learned = run("none", 2.3)
    learned["config"]["sampler"] = {"name": "ddim", "timesteps": "times.json"}
    (tmp_path / "learned").mkdir()
    assert beside(tmp_path / "learned", learned).empty


# ---------------------------------------------------------------- in the report


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return runs_in(
        tmp_path, run("none", 2.30, steps=50), taylorseer(3, 2.36), taylorseer(5, 2.7, cached=0.78, drift=0.9)
    )


def test_the_report_says_which_published_rows_were_reproduced(runs: Runs) -> None:
    frame, points = pointed(runs)
    text = markdown(frame, points)
    assert "### Beside the published numbers" in text
    assert "2.360(50)" in text
    assert text.count("not reproduced") == 2  # 2.18 and 2.43
    assert "published numbers have none" in text


def test_published_points_lie_under_the_measured_ones(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, _ = pointed(runs)
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, *_, **__: figures.append(figure))
    plots.plot_tradeoff(frame, tmp_path)
    axis = figures[0].axes[0]
    light = {line.get_label(): line for line in axis.get_lines() if str(line.get_label()).startswith("published")}
    assert set(light) == {"published", "published, as others quote it"}
    drawn = [spot for line in light.values() for spot in line.get_xydata().tolist()]
    assert len(drawn) == len([row for row in published.laid_beside(frame) if "fid" in row.numbers])
    assert [18.0, 2.34] in light["published"].get_xydata().tolist()
    measured = [line for line in axis.get_lines() if line not in light.values()]
    assert max(line.get_zorder() for line in light.values()) < min(line.get_zorder() for line in measured)


def test_the_page_has_the_points_and_the_verdicts(runs: Runs, tmp_path: Path) -> None:
    frame, points = pointed(runs)
    write_html(frame, [None] * len(frame), points, [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Beside the published numbers" in text
    assert "2.360 ± 0.050" in text
    assert "TaylorSeer, arXiv 2503.06923" in text
    assert '"name":"published"' in text
