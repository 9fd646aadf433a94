"""report.html as a person meets it: opened in a headless browser, and as the file it is."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from goc.report.page import write_html

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">'\"&"
RATIOS = [0.25, 0.5, 0.75]


def run(series: str, cached: float, fid: float | None, **columns) -> dict:
    values = {
        "series": series, "method": series.split(",")[0], "sampler": "ddim", "steps": 20, "cached": cached,
        "fid": fid, "is": 5.5, "kid": None, "mse": fid / 1000 if fid and cached else None,
        "psnr": 40.0 if cached else float("inf"), "macs_saved": 0.98 * cached, "latency_ratio": 1 - cached / 2,
        "gradient_weights": [1.2], "samples": 500, "seed": 0, "cfg_scale": 1.0, "model": "digits",
    }  # fmt: skip
    return values | columns


def example() -> pd.DataFrame:
    """Two protocols: DDIM-20 with three methods (one value of FID missing) and DDIM-50 with one."""
    rows = [run("none", 0.0, 4.0)]
    rows += [run("goc, w [1.2]", ratio, fid) for ratio, fid in zip(RATIOS, [3.9, 10.25, 125.0], strict=True)]
    rows += [run("reuse", ratio, fid) for ratio, fid in zip(RATIOS, [4.5, 5.5, 6.123456789], strict=True)]
    rows += [run("taylorseer", ratio, fid) for ratio, fid in zip(RATIOS, [4.25, None, 7.0], strict=True)]
    rows += [run("none", 0.0, 3.25, steps=50), run("goc, w [1.2]", 0.5, 3.5, steps=50)]
    return pd.DataFrame(rows)


def random_images(count: int, channels: int = 1, side: int = 8) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (8, channels, side, side), dtype=np.uint8) for _ in range(count)]


def embedded(path: Path) -> dict:
    """The data in a page, as its script reads it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


# ---------------------------------------------------------------- the file


def test_every_value_of_the_table_is_in_the_page_and_what_is_not_finite_is_null(tmp_path) -> None:
    frame = example()
    frame["uncorrected_steps"] = [np.array([2, 19])] * len(frame)
    frame["amplification"] = [np.nan, np.inf, -np.inf, pd.NA, None, *range(len(frame) - 5)]
    write_html(frame, [None] * len(frame), [("lost", "no memory")], tmp_path / "report.html")
    data = embedded(tmp_path / "report.html")
    assert data["columns"] == list(frame.columns)
    values = [entry["values"] for entry in data["runs"]]
    assert all(list(row) == list(frame.columns) for row in values)
    assert [row["amplification"] for row in values] == [None] * 5 + list(range(len(frame) - 5))
    assert all(row["uncorrected_steps"] == [2, 19] for row in values)
    assert [row["psnr"] for row in values[:2]] == [None, 40.0]
    plain = frame.drop(columns=["amplification", "uncorrected_steps", "psnr"]).astype(object)
    expected = plain.where(plain.notna(), None).to_dict("records")
    assert [{column: row[column] for column in plain.columns} for row in values] == expected
    assert data["failures"] == [{"run": "lost", "reason": "no memory"}]


def test_runs_of_different_protocols_are_kept_apart(tmp_path) -> None:
    frame = example()
    write_html(frame, [None] * len(frame), [], tmp_path / "report.html")
    data = embedded(tmp_path / "report.html")
    assert [entry["protocol"] for entry in data["runs"]] == [0] * 10 + [1] * 2
    assert ["DDIM-20" in data["protocols"][0], "DDIM-50" in data["protocols"][1]] == [True, True]


def test_hostile_names_stay_inside_the_data(tmp_path) -> None:
    frame = pd.DataFrame([run(HOSTILE, 0.5, 4.0, model=HOSTILE)])
    write_html(frame, [None], [(HOSTILE, HOSTILE)], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("</script") == 2  # the template's own
    assert "onerror" not in re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert embedded(tmp_path / "report.html")["runs"][0]["values"]["series"] == HOSTILE


def test_a_list_of_images_that_is_too_short_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_html(example(), [None], [], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """A page opened from its file, and what went wrong or left the machine meanwhile."""

    def __init__(self, page: Page, path: Path):
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())

    def column(self, name: str) -> list[str]:
        """Texts of one column of the table, from the top."""
        headers = self.page.locator("th").all_inner_texts()
        return self.page.locator(f"tbody tr td:nth-child({headers.index(name) + 1})").all_inner_texts()


@pytest.fixture
def visit(browser, tmp_path) -> Iterator:
    """Write the page for a table and open it; after the test there must be no error and no request but for the file."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    visits = []

    def call(frame: pd.DataFrame, images: list | None = None, failures: list | None = None) -> Visit:
        path = tmp_path / "report.html"
        write_html(frame, images or [None] * len(frame), failures or [], path)
        visits.append(Visit(page, path))
        return visits[-1]

    yield call
    page.close()
    for visited in visits:
        assert visited.problems == []
        assert [url for url in visited.requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


def test_the_plot_has_a_point_for_each_run_of_one_protocol_and_a_line_for_each_method(visit) -> None:
    page = visit(example()).page
    assert page.locator("#axes .point").count() == 9  # ten runs, one without FID
    assert page.locator("#axes .line").count() == 3
    expect(page.locator("#left-out")).to_have_text("1 run has no place on these axes")
    page.locator("#protocol").select_option(index=1)
    assert page.locator("#axes .point").count() == 2
    page.locator("#protocol").select_option(index=0)
    page.locator("#y").select_option(label="MSE to the uncached samples")
    assert page.locator("#axes .point").count() == 8  # the uncached run has no distance to itself


def test_only_metrics_with_values_can_be_chosen(visit) -> None:
    page = visit(example()).page
    labels = page.locator("#y option").all_inner_texts()
    assert labels == ["FID", "IS", "MSE to the uncached samples", "PSNR to the uncached samples, dB"]
    assert page.locator("#x option").all_inner_texts() == [
        "MACs saved, %", "measured speed-up, times", "features cached, %"
    ]  # fmt: skip


def heights(page: Page) -> dict[str, float]:
    """Vertical pixel of each point, larger is lower, by its run's number."""
    points = page.locator("#axes .point").all()
    boxes = [(point.get_attribute("data-run"), point.bounding_box()) for point in points]
    return {number: box["y"] + box["height"] / 2 for number, box in boxes if number and box}


def test_points_lie_where_their_numbers_say_on_both_kinds_of_axis(visit) -> None:
    page = visit(example()).page
    fid = {str(number): value for number, value in enumerate(example()["fid"][:10]) if not np.isnan(value)}
    assert page.locator("#log").is_checked()  # 3.9 to 125
    for transform in (np.log, np.asarray):
        pixels = heights(page)
        assert pixels.keys() == fid.keys()
        slope, offset = np.polyfit(transform(list(fid.values())), [pixels[number] for number in fid], 1)
        assert slope < 0
        error = [slope * transform(value) + offset - pixels[number] for number, value in fid.items()]
        assert np.abs(error).max() < 1.5  # pixels
        page.locator("#log").click()


def test_a_line_follows_the_cached_ratio_even_where_the_speed_up_falls(visit) -> None:
    rows = [
        run("goc", ratio, 4.0 + ratio, latency_ratio=latency)
        for ratio, latency in zip(RATIOS, [0.8, 0.4, 0.6], strict=True)
    ]
    page = visit(pd.DataFrame(rows)).page
    page.locator("#x").select_option(label="measured speed-up, times")
    line = page.locator("#axes .line").get_attribute("d")
    assert line
    across, up = np.array([pair.split() for pair in line[1:].split("L")], dtype=float).T
    assert np.all(np.diff(up) < 0)  # FID grows from ratio to ratio
    assert np.argsort(across).tolist() == [0, 2, 1]


def test_the_pareto_front_is_ringed(visit) -> None:
    page = visit(example()).page
    ringed = page.evaluate(
        """() => [...document.querySelectorAll('#axes .ring')].map(ring =>
             [...document.querySelectorAll('#axes .point')].find(point =>
               point.getAttribute('transform') === `translate(${ring.getAttribute('cx')} ${ring.getAttribute('cy')})`
             ).dataset.run)"""
    )
    # goc 25 % (3.9) beats none (4.0); reuse is best at 50 and 75 %, where taylorseer and goc are worse
    assert sorted(map(int, ringed)) == [1, 5, 6]


def test_error_bars_where_a_spread_is_known(visit) -> None:
    frame = example().assign(fid_spread=0.5)
    visited = visit(frame)
    assert visited.page.locator("#axes .error").count() == 9
    assert visited.column("fid")[0] == "4 ± 0.5"
    assert "fid_spread" not in visited.page.locator("th").all_inner_texts()


def test_hovering_a_point_tells_its_run_and_numbers(visit) -> None:
    page = visit(example(), random_images(12)).page
    box = page.locator("#hover")
    expect(box).to_be_hidden()
    page.locator('#axes .point[data-run="6"]').hover(force=True)
    expect(box).to_be_visible()
    text = box.inner_text()
    assert text.startswith("reuse")
    assert {"73.5", "1.6", "75", "6.123", "40"} <= set(text.split())
    assert box.locator("img").count() == 8
    page.mouse.move(2, 2)
    expect(box).to_be_hidden()


def test_the_legend_hides_and_shows_a_series(visit) -> None:
    page = visit(example()).page
    entry = page.get_by_role("button", name="goc, w [1.2]")
    assert entry.get_attribute("aria-pressed") == "true"
    entry.click()
    assert page.locator("#axes .point").count() == 6
    assert page.locator('#axes .line[data-series="goc, w [1.2]"]').count() == 0
    assert entry.get_attribute("aria-pressed") == "false"
    entry.click()
    assert page.locator("#axes .point").count() == 9


def test_clicking_a_header_sorts_numbers_by_size_and_leaves_gaps_last(visit) -> None:
    visited = visit(example())
    header = visited.page.locator("th[data-column=fid] button")
    assert visited.column("fid")[:4] == ["4", "3.9", "10.25", "125"]
    header.click()
    ascending = ["3.25", "3.5", "3.9", "4", "4.25", "4.5", "5.5", "6.123", "7", "10.25", "125"]
    assert visited.column("fid") == [*ascending, ""]
    assert visited.column("series")[0] == "none"
    header.click()
    assert visited.column("fid") == [*reversed(ascending), ""]
    visited.page.locator("th[data-column=series] button").click()
    assert visited.column("series") == sorted(example()["series"])


def test_table_cells_keep_all_digits_and_constant_protocol_columns_are_named_once(visit) -> None:
    page = visit(example()).page
    assert page.locator("td", has_text="6.123").first.get_attribute("title") == "6.123456789"
    headers = page.locator("th").all_inner_texts()
    assert "steps" in headers
    assert not {"model", "seed", "kid"} & set(headers)
    expect(page.locator("#constants")).to_contain_text("model digits")


def test_pictures_show_the_uncached_run_first_and_are_decoded(visit) -> None:
    frame = example()
    images = random_images(len(frame))
    page = visit(frame, [None if index == 4 else pictures for index, pictures in enumerate(images)]).page
    names = page.locator("#rows .name").all_inner_texts()
    assert names[0].startswith("none")
    assert len(names) == 9  # the run without images is left out
    assert any(name.startswith("taylorseer\n75 % cached") for name in names)
    sides = page.evaluate(
        """async () => { const images = [...document.querySelectorAll('#rows img')];
                         await Promise.all(images.map(image => image.decode()));
                         return images.map(image => [image.naturalWidth, image.width]); }"""
    )
    assert sides == [[8, 56]] * 72
    page.locator("#order").select_option("cached")
    ratios = [int(name.split("\n")[1].split(" %")[0]) for name in page.locator("#rows .name").all_inner_texts()]
    assert ratios == sorted(ratios)


def test_difference_pictures_are_the_amplified_distance_to_the_uncached_run(visit) -> None:
    frame = example().iloc[[0, 1]].reset_index(drop=True)
    images = [np.full((1, 3, 64, 64), value, dtype=np.uint8) for value in (100, 110)]
    page = visit(frame, images).page
    assert page.locator("#rows .difference").count() == 0
    page.locator("#difference").check()
    page.locator("#amplify").select_option("16")
    shot = page.locator("#rows .difference").screenshot()
    pixel = page.evaluate(
        """async png => { const image = new Image(); image.src = 'data:image/png;base64,' + png; await image.decode();
                          const canvas = document.createElement('canvas').getContext('2d');
                          canvas.drawImage(image, 0, 0); return [...canvas.getImageData(20, 20, 1, 1).data]; }""",
        base64.b64encode(shot).decode(),
    )
    assert pixel == [160, 160, 160, 255]


def test_large_images_are_scaled_down(visit) -> None:
    frame = example().iloc[[0, 1]].reset_index(drop=True)
    page = visit(frame, random_images(2, channels=3, side=256)).page
    images = page.locator("#rows img")
    assert images.count() == 16
    assert images.first.evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 128
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_names_are_shown_and_do_nothing(visit) -> None:
    frame = pd.DataFrame([run(HOSTILE, ratio, 4.0 + ratio, model=HOSTILE) for ratio in RATIOS])
    page = visit(frame, random_images(3), [(HOSTILE, HOSTILE)]).page
    page.locator("#axes .point").first.hover(force=True)
    expect(page.locator("#hover b").first).to_have_text(HOSTILE)
    expect(page.locator("#failures dt")).to_have_text(HOSTILE)
    page.locator("#legend button").first.click()
    page.locator("th button").first.click()
    assert page.title() == "goc: quality against cost"
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("frame", [example().iloc[:0], example()[["series", "cached", "model", "sampler", "steps"]]])
def test_a_page_without_anything_to_plot_still_names_the_failures(visit, frame) -> None:
    page = visit(frame, None, [("goc-ddim20-r0.99", "cache_ratio=0.99: at most 0.95")]).page
    expect(page.locator("#failures dd")).to_have_text("cache_ratio=0.99: at most 0.95")
    assert page.locator("#axes svg").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(visit, scheme) -> None:
    page = visit(example()).page
    page.emulate_media(color_scheme=scheme)
    style = "getComputedStyle(document.body)"
    ink, paper = (
        sum(map(int, re.findall(r"\d+", page.evaluate(f"{style}.{name}")))) for name in ("color", "backgroundColor")
    )
    assert (ink < paper) == (scheme == "light")
    assert abs(ink - paper) > 400  # of 765
