import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from paired import content
from PIL import Image

from goc.report.frame import table
from goc.report.study import main
from goc.sampling.images import image_grid
from goc.system.command import run_command


def result(method: str, cached: float, fid: float, seed: int = 0, **config) -> dict:
    """Of an older version, which did not count evaluations."""
    cost = {"evaluations": None, "macs_saved": cached, "latency_ratio": 1 - cached}
    distance = {"mse": fid / 100} if cached else {}
    return content(method, cached, {"fid": fid}, seed=seed, distance=distance, cost=cost, config=config)


def write(folder: Path, *results: dict) -> None:
    for index, result in enumerate(results):
        (folder / str(index)).mkdir()
        (folder / str(index) / "result.json").write_text(json.dumps(result))


def test_the_table_has_one_row_a_run_and_gaps_where_nothing_was_measured() -> None:
    frame = table([result("goc", 0.5, 3.0), result("none", 0.0, 4.0)])
    assert frame["method"].tolist() == ["goc", "none"]
    assert frame["fid"].tolist() == [3.0, 4.0]
    assert np.isnan(frame["mse"][1])
    assert frame["is"].isna().all()


@pytest.mark.slow
def test_report_on_a_folder_writes_csv_and_picture(tmp_path, capsys) -> None:
    points = (("none", 0.0, 4.0), ("goc", 0.25, 3.9), ("goc", 0.5, 3.8))
    write(tmp_path, *(result(method, cached, fid, cache_ratio=cached) for method, cached, fid in points))
    (tmp_path / "half-written").mkdir()
    (tmp_path / "half-written" / "result.json").write_text("{")
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "run.json").write_text("{}")
    assert main([str(tmp_path)]) == 0
    frame = pd.read_csv(tmp_path / "tradeoff.csv")
    assert frame["fid"].tolist() == [3.8, 3.9, 4.0]  # by cost
    with Image.open(tmp_path / "tradeoff.png") as picture:
        assert picture.size[0] > 500
    shown = capsys.readouterr()
    assert "3 runs" in shown.out
    assert f"skipped: {tmp_path / 'half-written'}: result.json is damaged" in shown.err
    assert f"skipped: {tmp_path / 'stopped'}: not finished" in shown.err


@pytest.mark.usefixtures("without_plots")
def test_seeds_of_a_point_become_mean_and_spread(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(result("goc", 0.5, fid, seed=seed) for seed, fid in enumerate((3.0, 4.0, 5.0))),
        result("none", 0.0, 2.0, cache_ratio=None),
    )
    assert main([str(tmp_path)]) == 0
    every, points = (pd.read_csv(tmp_path / name) for name in ("results.csv", "tradeoff.csv"))
    assert len(every) == 4
    goc = points[points["method"] == "goc"].iloc[0]
    assert (goc["fid"], goc["fid_spread"], goc["seed"]) == (4.0, 1.0, "0,1,2")
    assert "4 ± 1" in (tmp_path / "table.md").read_text()


@pytest.mark.usefixtures("without_plots")
def test_failed_runs_are_in_the_report_with_their_reasons(tmp_path: Path) -> None:
    write(tmp_path, result("none", 0.0, 4.0))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "error.txt").write_text("cache_ratio=1.5: must be in [0, 1)\nTraceback ...")
    assert main([str(tmp_path)]) == 0
    assert "cache_ratio=1.5: must be in [0, 1)" in (tmp_path / "report.html").read_text()


def test_a_folder_without_runs_is_an_error(tmp_path, capsys) -> None:
    assert run_command(partial(main, [str(tmp_path)])) == 1
    assert "no finished run" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_every_image_enlarged(channels: int) -> None:
    images = torch.arange(5, dtype=torch.uint8).mul(50)[:, None, None, None].expand(5, channels, 8, 8).contiguous()
    picture = np.asarray(image_grid(images, columns=3))
    cell = 9 * 6
    assert picture.shape[:2] == (2 * cell, 3 * cell)
    assert [int(picture[r * cell, c * cell].flat[0]) for r in range(2) for c in range(3)] == [0, 50, 100, 150, 200, 255]


def test_large_samples_are_reduced_in_a_grid() -> None:
    images = torch.randint(256, (3, 3, 1024, 1200), dtype=torch.uint8)
    picture = image_grid(images, columns=3)
    assert picture.size == (3 * 401, 342)
