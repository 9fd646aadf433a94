"""report.html as a person meets it: opened in a headless browser, and as the file it is."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paired import content
from playwright.sync_api import Page, expect, sync_playwright

from goc.report.cells import number
from goc.report.frame import over_seeds, series_names, table
from goc.report.page import write_html
from goc.report.pairs import Point, difference
from goc.report.published import laid_beside
from goc.report.thumbnails import LARGEST_STRIPS, amplified_difference, strips
from goc.report.vega import LIGHT, library

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
HOSTILE = (
    "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">'\"&{{ 7*7 }}"
)
SAMPLES = 200


def result(method: str, steps: int, computed: int, fid: float, **changes) -> dict:
    """What a run of the digits leaves; `computed` of its steps are, and the rest is cached."""
    cached = 1 - computed / steps
    distance = {"drift": fid / 100, "relative_l2_mean": cached, "relative_l2_median": cached / 2, "mse": cached / 1000}
    return content(
        changes.get("name", method), cached, {"fid": fid, "fid_se": 0.5, "is": 5.5, "is_se": 0.25}, steps,
        model=changes.get("model", "digits"), distance=distance if cached else {},
        cost={"evaluations": computed, "gmacs_per_image": computed / 100, "latency_ratio": 1 - cached / 2},
        config={"num_samples": SAMPLES, "predictor": {"name": method}},
        cached_steps=[step for step in range(steps) if step % (steps // computed)] if cached else [],
    )  # fmt: skip


def digits(**changes) -> list[dict]:
    """Fewer steps, and two caches on 20 steps, of which reuse is bad at 5 evaluations."""
    rows = [result("none", steps, steps, fid, **changes) for steps, fid in ((5, 9.0), (10, 6.0), (20, 4.0))]
    rows += [result("reuse", 20, computed, fid, **changes) for computed, fid in ((5, 125.0), (10, 5.5))]
    return rows + [result("goc", 20, computed, fid, **changes) for computed, fid in ((5, 7.0), (10, 4.123456))]


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=SAMPLES).astype(np.float32)


class Study:
    """A table with its points, as the report makes them; what samples contribute is drawn at random."""

    def __init__(self, results: list[dict], shared: float = 1.0):
        """shared: how much of what samples contribute is the same in all runs."""
        frame = over_seeds(table(results))
        self.frame = frame.assign(series=series_names(frame))
        self.points = []
        for place in range(len(frame)):
            influence = {"fid": shared * noise(0) + 0.1 * noise(place + 1)}
            if frame["cached"].iloc[place]:
                influence["relative_l2"] = np.abs(noise(100 + place))
            row = frame.iloc[place]
            self.points.append(Point({0: Path()}, {0: row}, {0: influence}))

    def write(self, path: Path, images: list | None = None, failures: list | None = None) -> Path:
        write_html(self.frame, images or [None] * len(self.frame), self.points, failures or [], path)
        return path

    def place(self, method: str, steps: int, evaluations: int) -> int:
        same = (self.frame[["method", "steps", "evaluations"]] == [method, steps, evaluations]).all(axis=1)
        return int(np.flatnonzero(same)[0])


def random_images(count: int, channels: int = 1, side: int = 8) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (8, channels, side, side), dtype=np.uint8) for _ in range(count)]


def embedded(path: Path) -> list[dict]:
    """The data in a page, as its script reads it."""
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert script
    return json.loads(script[1])


# ---------------------------------------------------------------- the file


def test_numbers_of_the_table_are_in_the_page_and_what_is_not_finite_is_null(tmp_path) -> None:
    study = Study(digits())
    study.frame["converged"] = [np.nan, np.inf, -np.inf, None, *map(float, range(len(study.frame) - 4))]
    (data,) = embedded(study.write(tmp_path / "report.html"))
    assert [row["values"]["fid"] for row in data["rows"]] == study.frame["fid"].tolist()
    assert [row["values"]["converged"] for row in data["rows"]] == [None] * 4 + [0, 1, 2]
    assert [row["errors"]["is"] for row in data["rows"]] == [0.25] * len(study.frame)


def test_differences_in_the_page_are_those_of_pairs(tmp_path) -> None:
    study = Study(digits())
    (data,) = embedded(study.write(tmp_path / "report.html"))
    for late in range(len(study.points)):
        for early in range(late):
            expected = difference(study.points[late], study.points[early], "fid")
            assert expected
            value, error, decided = data["differences"]["fid"][late][early]
            assert (value, error) == pytest.approx((expected.value, expected.error), rel=1e-6)
            assert decided == expected.decided


def test_the_page_shows_how_what_is_cached_differs_between_samples(tmp_path) -> None:
    rows = digits()
    quartiles = {"min": 0.25, "q25": 0.4, "median": 0.5, "q75": 0.625, "max": 0.7}
    assert "cached, over samples" not in Study(rows).write(tmp_path / "report.html").read_text()
    rows[-1]["cost"] |= {f"cache_ratio_{name}": value for name, value in quartiles.items()}
    page = Study(rows).write(tmp_path / "report.html").read_text()
    assert page.count("<button>cached, over samples</button>") == 1
    assert page.count('aria-label="cached: 25 to 70 % of a sample, median 50 %, the middle half 40 to 62 %"') == 1
    assert "M0.2500 5.5H0.7000v1H0.2500zM0.4000 2H0.6250v8H0.4000zM0.4950 0h0.01v12h-0.01z" in page


@pytest.mark.slow
def test_a_study_of_thirty_rows_with_large_noisy_pictures_is_at_most_three_megabytes(tmp_path) -> None:
    rows = digits() + [result("taylorseer", 20, 4, 5.0 + index, cache=index) for index in range(23)]
    for index, row in enumerate(rows[7:]):
        row["config"]["cache_ratio"] = 0.8 + index / 1000  # points of their own
    study = Study(rows)
    assert len(study.frame) == 30
    path = study.write(tmp_path / "report.html", random_images(30, channels=3, side=256))
    assert path.stat().st_size <= 3e6


def test_hostile_names_stay_inside_text_and_data(tmp_path) -> None:
    study = Study(digits(model=HOSTILE, name=HOSTILE))
    path = study.write(tmp_path / "report.html", failures=[(HOSTILE, HOSTILE)])
    page = path.read_text()
    assert page.count("</script") == 3  # the library, the data, the page's own
    assert "<img" not in page.replace(library(), "")
    assert "49" not in re.findall(r"<dt>.*?</dt>", page)[0]
    assert HOSTILE in {row["texts"]["series"] for row in embedded(path)[0]["rows"]}


def test_lists_that_are_too_short_are_refused(tmp_path) -> None:
    study = Study(digits())
    with pytest.raises(ValueError, match="7 rows, 1 entries of images, 7 points"):
        write_html(study.frame, [None], study.points, [], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(3.14159, 0.0234, "3.142 ± 0.023"), (87.46, 11.96, "87 ± 12"), (12345.6, 321.0, "12346 ± 321"), (0.5, None, "0.5"),
     (4.123456, 0.0, "4.123")],
)  # fmt: skip
def test_numbers_are_shown_to_two_digits_of_their_error(value, error, text) -> None:
    assert number(value, error) == text


@pytest.mark.slow
def test_strips_become_smaller_until_they_fit() -> None:
    few, many = (strips(dict(enumerate(random_images(count, 3, 256)))) for count in (1, 40))
    assert (few[0].count, few[0].width) == (8, 128)
    assert many[0].width < 128
    assert sum(len(strip.source) for strip in many.values()) <= LARGEST_STRIPS


def test_difference_pictures_are_the_amplified_distance() -> None:
    low, high = (np.full((2, 1, 4, 4), value, dtype=np.uint8) for value in (100, 110))
    assert np.all(amplified_difference(low, high) == 80)
    assert np.all(amplified_difference(high, low[:1]) == 80)
    assert amplified_difference(high, low[:1]).shape == (1, 1, 4, 4)
    assert np.all(amplified_difference(low, low + 100) == 255)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """A page of a browser, for one study's after the other: a new one each time takes twice as long."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched.new_page()
        launched.close()


POINTS = '#plot path[aria-roledescription="point"][fill]:not([fill="transparent"])'


class Visit:
    """A page opened from its file, and what went wrong or left the machine meanwhile."""

    def __init__(self, page: Page, path: Path):
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.listeners: dict[str, Any] = {
            "console": lambda message: self.problems.append(message.text),
            "pageerror": lambda error: self.problems.append(str(error)),
            "request": lambda request: self.requests.append(request.url),
        }
        for event, listener in self.listeners.items():
            page.on(event, listener)
        page.goto(path.as_uri())

    def leave(self) -> None:
        """Listen no longer: the page is another's next."""
        for event, listener in self.listeners.items():
            self.page.remove_listener(event, listener)

    def points(self) -> list[dict[str, str]]:
        """What the plot's points say to a screen reader, once it is drawn."""
        self.page.evaluate("plot.then(() => null)")
        labels = [mark.get_attribute("aria-label") or "" for mark in self.page.locator(POINTS).all()]
        return [dict(part.split(": ", 1) for part in label.split("; ")) for label in labels]

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the plot's points are in pixels: to the right, and upward."""
        self.page.evaluate("plot.then(() => null)")
        boxes = [box for mark in self.page.locator(POINTS).all() if (box := mark.bounding_box())]
        middles = np.array([(box["x"] + box["width"] / 2, -box["y"] - box["height"] / 2) for box in boxes])
        return middles[:, 0], middles[:, 1]

    def axis_titles(self) -> str:
        self.page.evaluate("plot.then(() => null)")
        across, up = self.page.locator("#plot .role-axis-title text").all()
        return f"{across.text_content()} | {' '.join(up.locator('tspan').all_text_contents())}"

    def column(self, name: str) -> list[str]:
        """Texts of one column of the shown table of results, from the top."""
        shown = self.page.locator(".results:visible")
        heads = [head.split(" ↓")[0].split(" ↑")[0] for head in shown.locator("th").all_inner_texts()]
        return shown.locator(f"tbody tr td:nth-child({heads.index(name) + 1})").all_inner_texts()

    def paired(self, row: int) -> list[str]:
        """Texts of one row of the comparison in pairs: verdict and number of each column."""
        return self.page.locator(f"#pairs-body tr:nth-child({row + 1}) td").all_inner_texts()


@pytest.fixture
def visit(browser: Page, tmp_path: Path) -> Iterator:
    """Write the page for a study and open it; after the test there must be no error and no request but for the file."""
    browser.set_viewport_size({"width": 1400, "height": 900})
    visits: list[Visit] = []

    def call(study: Study, images: list | None = None, failures: list | None = None) -> Visit:
        if visits:
            visits[-1].leave()
        visits.append(Visit(browser, study.write(tmp_path / "report.html", images, failures)))
        return visits[-1]

    yield call
    if browser.locator("#plot").count():
        browser.evaluate("plot.then(() => null)")
    for visited in visits[-1:]:
        visited.leave()
    for visited in visits:
        assert visited.problems == []
        assert [url for url in visited.requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


def test_the_plot_has_a_point_for_each_row_and_a_line_for_each_series(visit) -> None:
    visited = visit(Study(digits()))
    assert len(visited.points()) == 7
    names = visited.page.locator("#plot .role-legend-label text").all_text_contents()
    assert sorted(names) == ["DDIM, fewer steps", "goc", "reuse"]
    assert visited.page.locator('#plot path[aria-roledescription="line mark"]').count() == 3
    assert visited.axis_titles() == "network evaluations (fewer is cheaper) | FID to the real images (lower is better)"


def test_another_quality_or_cost_redraws_the_plot(visit) -> None:
    visited = visit(Study(digits()))
    visited.page.locator("#cost").select_option("speedup")
    assert visited.axis_titles().startswith("measured speed-up over 20 uncached evaluations (more is cheaper)")
    visited.page.locator("#cost").select_option("gmacs")
    visited.page.locator("#quality").select_option("drift")
    assert visited.axis_titles() == (
        "GMACs per image (fewer is cheaper) | drift: FID to the uncached samples (lower is better)"
    )
    assert len(visited.points()) == 4
    expect(visited.page.locator("#left-out")).to_have_text("3 of 7 rows have no place on these axes")
    visited.page.locator("#quality").select_option("is")
    assert visited.axis_titles().endswith("Inception score (higher is better)")


def test_only_columns_with_numbers_can_be_chosen_and_are_in_the_table(visit) -> None:
    page = visit(Study(digits())).page
    values = [option.get_attribute("value") for option in page.locator("#quality option").all()]
    assert values == ["fid", "is", "drift", "mse", "relative_l2_mean", "relative_l2_median"]
    assert page.locator("#cost option").count() == 3
    heads = " ".join(page.locator(".results th").all_inner_texts())
    assert "FID ↓" in heads
    assert "IS ↑" in heads
    assert not any(name in heads for name in ("KID", "LPIPS", "converged", "amplification"))


def test_points_lie_where_their_numbers_say(visit) -> None:
    study = Study(digits())
    visited = visit(study)
    assert len(visited.points()) == 7
    across, up = visited.places()
    cut = study.place("reuse", 20, 5)
    for values, pixels in (
        (study.frame["evaluations"].astype(float), across),  # 5 to 20: linear
        (study.frame["fid"].drop(cut).astype(float), np.delete(up, cut)),  # 4 to 9 without what is cut: linear
    ):
        slope, offset = np.polyfit(values, pixels, 1)
        assert slope > 0
        assert np.abs(slope * values + offset - pixels).max() < 1.5


def test_a_row_far_beyond_the_others_is_a_triangle_at_the_frame_and_its_line_leaves_there(visit) -> None:
    study = Study(digits())  # reuse with 5 evaluations: 125, of 4 to 9
    visited = visit(study)
    cut, page = study.place("reuse", 20, 5), visited.page
    point = visited.points()[cut]
    assert (point["network evaluations (fewer is cheaper)"], point["FID"]) == ("5", "125.00 ± 0.50")
    _, up = visited.places()
    others = np.delete(up, cut)
    assert others.max() < up[cut] < others.max() + 0.25 * np.ptp(others)  # which have the height to themselves
    shown = page.locator("#beyond")
    expect(shown).to_be_visible()
    page.locator("#quality").select_option("is")  # all the same
    visited.points()
    expect(shown).to_be_hidden()


def test_the_legend_singles_a_series_out(visit) -> None:
    visited = visit(Study(digits()))
    visited.points()
    lines = visited.page.locator('#plot path[aria-roledescription="line mark"]')
    opacities = "lines => lines.map(line => line.getAttribute('opacity'))"
    assert lines.evaluate_all(opacities) == ["1", "1", "1"]
    visited.page.locator("#plot .role-legend-label text", has_text="goc").click()
    assert sorted(lines.evaluate_all(opacities)) == ["0.1", "0.1", "1"]


def test_pointing_at_a_point_tells_its_numbers_with_errors(visit) -> None:
    study = Study(digits())
    visited = visit(study)
    visited.points()
    visited.page.locator(POINTS).nth(study.place("goc", 20, 10)).hover(force=True)
    tooltip = visited.page.locator("#vg-tooltip-element")
    expect(tooltip).to_contain_text("goc")
    expect(tooltip).to_contain_text("4.12 ± 0.50")


def test_the_front_is_of_rows_that_none_beats_in_both(tmp_path) -> None:
    study = Study(digits())
    (data,) = embedded(study.write(tmp_path / "report.html"))
    best = [("goc", 20, 5), ("goc", 20, 10), ("none", 20, 20)]
    assert data["fronts"]["fid"]["evaluations"] == sorted(study.place(*row) for row in best)


def test_error_bars_fall_back_on_the_spread_over_seeds(tmp_path) -> None:
    study = Study(digits())
    study.frame["fid_spread"] = 0.125
    study.frame.loc[0, "fid_se"] = np.nan
    (data,) = embedded(study.write(tmp_path / "report.html"))
    assert [row["errors"]["fid"] for row in data["rows"]][:2] == [0.125, 0.5]


def test_several_measurements_never_mix(visit) -> None:
    study = Study([*digits(), result("none", 20, 20, 3.0, model="other"), result("goc", 20, 10, 3.5, model="other")])
    visited = visit(study, random_images(9))
    page = visited.page
    assert (len(visited.points()), len(visited.column("FID")), page.locator("#pairs-body tr").count()) == (7, 7, 7)
    page.locator("#measurement").select_option(index=1)
    assert page.locator("#quality").input_value() == "relative_l2_mean"  # a distance, where all share their target
    page.locator("#quality").select_option("fid")
    assert (len(visited.points()), len(visited.column("FID")), page.locator("#pairs-body tr").count()) == (2, 2, 2)
    assert visited.column("FID") == ["3.50 ± 0.50", "3.00 ± 0.50"]
    assert page.locator("#baseline option").count() == 2
    assert page.locator(".row:visible").count() == 2
    assert page.locator(".worst:visible tr").count() == 1


def test_the_comparison_in_pairs_shows_the_numbers_of_pairs_difference(visit) -> None:
    study = Study(digits())
    visited = visit(study)
    baseline, other = study.place("goc", 20, 5), study.place("reuse", 20, 5)
    for chosen, row, verdict in ((baseline, other, "worse"), (other, baseline, "better")):
        visited.page.locator("#baseline").select_option(str(chosen))
        delta = difference(study.points[row], study.points[chosen], "fid")
        assert delta
        assert delta.decided
        assert visited.paired(row)[1].split("\n") == [verdict, f"{delta.value:+.4f} ± {delta.error:.4f}"]
        assert visited.paired(chosen)[1] == "baseline"


def test_a_difference_of_less_than_two_errors_is_a_tie(visit) -> None:
    rows = [result("none", 20, 20, 4.0), result("goc", 20, 10, 4.01), result("reuse", 20, 10, 4.1)]
    study = Study(rows)
    visited = visit(study)
    verdicts = [visited.paired(study.place(method, 20, 10))[1].split("\n")[0] for method in ("goc", "reuse")]
    assert verdicts == ["tie", "worse"]  # the paired error is 0.01; that of either FID is 0.5
    inception = visited.paired(study.place("goc", 20, 10))[2].split("\n")
    assert inception == ["tie", "0.00 ± 0.35"]  # not known in pairs: of two numbers of their own


def test_clicking_a_header_sorts_numbers_by_size_and_leaves_gaps_last(visit) -> None:
    study = Study(digits())
    visited = visit(study)
    header = visited.page.locator(".results th[data-column=drift] button")
    header.click()
    assert visited.column("drift")[:4] == ["0.04123", "0.055", "0.07", "1.25"]
    assert visited.column("drift")[4:] == ["", "", ""]
    header.click()
    assert visited.column("drift") == ["1.25", "0.07", "0.055", "0.04123", "", "", ""]
    visited.page.locator(".results th button").first.click()
    assert visited.column("series") == sorted(study.frame["series"], key=str.lower)


def test_masks_show_how_much_of_each_step_is_computed(visit) -> None:
    rows = digits()
    rows[4]["cached_share"] = [0.0, 0.75] * 10
    visited = visit(Study(rows))
    parts = visited.page.locator(".mask[aria-label='12.5 of 20 steps are computed'] path")
    assert parts.get_attribute("d").split("z")[:2] == ["M0 0h0.85V1H0", "M1 0.75h0.85V1H1"]


def test_masks_of_older_results_are_left_out_where_parts_of_steps_are_cached(visit) -> None:
    rows = digits()
    rows[4]["cached_steps"] = []  # 10 of 20 steps' worth of cells are cached, but no step as a whole
    rows[5]["cached_steps"] = None
    visited = visit(Study(rows))
    labels = [mask.get_attribute("aria-label") or "" for mask in visited.page.locator(".mask").all()]
    assert sorted(labels) == [
        "10 of 10 steps are computed", "10 of 20 steps are computed", "20 of 20 steps are computed",
        "5 of 20 steps are computed", "5 of 5 steps are computed",
    ]  # fmt: skip


def test_pictures_show_an_uncached_row_before_its_caches_and_are_decoded(visit) -> None:
    study = Study(digits())
    images = random_images(len(study.frame))
    images[study.place("reuse", 20, 5)] = None
    page = visit(study, images).page
    names = [name.split("\n")[0] for name in page.locator(".row > div:first-child").all_inner_texts()]
    assert names[0] == "DDIM, fewer steps, DDIM-20, 20 evaluations"
    assert names[-2:] == ["DDIM, fewer steps, DDIM-10, 10 evaluations", "DDIM, fewer steps, DDIM-5, 5 evaluations"]
    assert len(names) == 6
    assert page.locator(".row .samples:visible .picture").count() == 48
    page.locator("#difference").check()
    assert page.locator(".row .difference:visible").count() == 3
    sources = "getComputedStyle(document.querySelector('.row .picture')).backgroundImage"
    assert page.evaluate(
        f"""async () => {{ const image = new Image(); image.src = {sources}.slice(5, -2);
                          await image.decode(); return [image.naturalWidth, image.naturalHeight]; }}"""
    ) == [64, 8]


def test_a_picture_is_the_sample_it_says(visit) -> None:
    study = Study([result("none", 20, 20, 4.0)])
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1) * 30 * np.ones((8, 1, 8, 8), dtype=np.uint8)
    page = visit(study, [images]).page
    shades = []
    for picture in page.locator(".row .picture").all():
        shot = base64.b64encode(picture.screenshot()).decode()
        shades += page.evaluate(
            """async png => { const image = new Image(); image.src = 'data:image/png;base64,' + png;
                              await image.decode();
                              const canvas = document.createElement('canvas').getContext('2d');
                              canvas.drawImage(image, 0, 0); return [canvas.getImageData(30, 30, 1, 1).data[0]]; }""",
            shot,
        )
    assert shades == [30 * index for index in range(8)]


def test_worst_samples_are_named_with_pictures_of_those_that_are_kept(visit) -> None:
    study = Study(digits())
    place = study.place("goc", 20, 5)
    distances = np.zeros(SAMPLES, dtype=np.float32)
    distances[[150, 3, 77]] = [0.9, 0.8, 0.7]
    study.points[place].influence[0]["relative_l2"] = distances
    page = visit(study, random_images(7)).page
    row = page.locator(".worst tr", has_text="goc, DDIM-20, 5 evaluations")
    told = [text.strip() for text in row.locator("td").all_inner_texts()[1:4]]
    assert told == ["#150: 0.9", "#3: 0.8", "#77: 0.7"]
    assert [cell.locator(".picture").count() for cell in row.locator("td").all()[1:4]] == [0, 2, 0]


def test_why_there_is_no_paired_error_is_said(visit) -> None:
    study = Study(digits())
    study.points[1].influence, study.points[1].missing = {}, "influence.safetensors is missing"
    expect(visit(study).page.locator("#pairs")).to_contain_text("influence.safetensors is missing")


def test_hostile_names_are_shown_and_do_nothing(visit) -> None:
    study = Study(digits(model=HOSTILE, name=HOSTILE))
    study.points[1].missing = HOSTILE
    visited = visit(study, random_images(len(study.frame)), [(HOSTILE, HOSTILE)])
    page = visited.page
    visited.page.evaluate("plot.then(() => null)")
    page.locator(POINTS).nth(int(np.argmax(study.frame["cached"]))).hover(force=True)
    expect(page.locator("#vg-tooltip-element")).to_contain_text("document.title")
    expect(page.locator("#failures dt")).to_have_text(HOSTILE)
    page.locator("#pairs-head button").first.click()
    page.locator("#baseline").select_option(index=1)
    assert page.title() == "goc: quality against cost"
    assert page.locator("img").count() == 0


def test_a_page_without_rows_still_names_the_failures(visit) -> None:
    study = Study(digits())
    study.frame, study.points = study.frame.iloc[:0], []
    page = visit(study, None, [("goc-ddim20-r0.99", "cache_ratio=0.99: at most 0.95")]).page
    expect(page.locator("#failures dd")).to_have_text("cache_ratio=0.99: at most 0.95")
    assert page.locator("#plot").count() == 0


def test_rows_without_quality_or_cost_have_a_table_and_no_plot(visit) -> None:
    rows = digits()
    for row in rows:
        row["metrics"], row["distance"] = {}, {}
    page = visit(Study(rows)).page
    expect(page.locator("#tradeoff")).to_be_hidden()
    expect(page.locator("#pairs")).to_be_hidden()
    assert page.locator(".results tbody tr").count() == 7


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_never_scrolls_sideways(visit, width) -> None:
    study = Study(digits())
    visited = visit(study, random_images(7, channels=3, side=256), [("x" * 300, "y" * 300)])
    visited.page.set_viewport_size({"width": width, "height": 900})
    visited.page.locator("#difference").check()
    assert len(visited.points()) == 7
    assert visited.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visited.page.locator("#plot svg.marks").evaluate("svg => svg.clientWidth") > 0.85 * width - 40


def test_differences_to_few_rows_are_shown_as_those_of_all_pairs(visit, monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(visited: Visit, baseline: str) -> list[list[str]]:
        visited.page.locator("#baseline").select_option(label=baseline)
        return [visited.paired(row) for row in range(7)]

    study = Study(digits())
    visited = visit(study)
    assert visited.page.locator("#baseline option").count() == 7
    names = visited.page.locator("#baseline option").all_inner_texts()
    expected = {name: pairs(visited, name) for name in names}
    monkeypatch.setattr("goc.report.cells.PAIRS", 20)
    visited = visit(study)
    offered = visited.page.locator("#baseline option").all_inner_texts()
    assert len(offered) == 3
    assert offered[0] == names[study.place("none", 20, 20)]
    assert {name: pairs(visited, name) for name in offered} == {name: expected[name] for name in offered}


def test_published_numbers_are_diamonds_under_the_rows_where_they_have_a_place(visit) -> None:
    study = Study(digits())
    study.frame = study.frame.assign(model="DiT-XL/2-256", cfg_scale=1.5)
    beside = laid_beside(study.frame)
    visited = visit(study)
    diamonds = visited.page.locator(f'#plot path[aria-roledescription="point"][stroke="{LIGHT}"]')
    visited.page.evaluate("plot.then(() => null)")
    assert diamonds.count() == sum("fid" in row.numbers for row in beside)
    first = diamonds.first.get_attribute("aria-label") or ""
    assert "none (ddim, 20 steps): FID 3.484, sFID 4.892" in first
    assert "GOC, arXiv 2503.05156, read in the paper" in first
    visited.page.select_option("#quality", "drift")
    visited.page.evaluate("plot.then(() => null)")
    assert diamonds.count() == sum("drift" in row.numbers for row in beside)
    visited.page.select_option("#cost", "speedup")  # measured on other machines
    visited.page.evaluate("plot.then(() => null)")
    assert diamonds.count() == 0
