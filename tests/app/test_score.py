"""Images made elsewhere are measured as a run's, and stand beside runs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from checkout import QUICK
from closeness import assert_near
from PIL import Image

import goc
from goc.report.compare import compared_points, comparison
from goc.system.errors import GocError

OF_RUN = ("model=digits", "steps=5", "metrics=[fid]")

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cached run and an uncached one of 24 digits, with their images."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, method, form in (("cached", "reuse", "npz"), ("uncached", "none", "png")):
            result = goc.run(f"method={method}", "cache_ratio=0.4", *QUICK, save_images=form)
            shutil.copytree(result.folder, folder / name)
    return folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def images(folder: Path) -> np.ndarray:
    return np.load(folder / "cached" / "images.npz")["arr_0"]


def shown(result: goc.Result, metric: str) -> str:
    """A metric's row of the table that a run ends with: its number and its error."""
    (line,) = [line for line in str(result).splitlines() if line.split()[0] == metric]
    return " ".join(line.split())


def test_a_runs_images_have_its_numbers_and_errors(runs: Path) -> None:
    run = goc.Result.load(runs / "cached")
    scored = goc.score(
        runs / "cached" / "images.npz", *OF_RUN, name="theirs", against=runs / "uncached" / "images", paired=True,
        evaluations=3,
    )  # fmt: skip
    assert run.metrics == pytest.approx(scored.metrics)
    assert shown(run, "fid") == shown(scored, "fid")
    of_latents = [name for name in run.distance if name.startswith(("mse", "relative_l2"))]
    assert len(of_latents) == 8
    assert scored.distance == pytest.approx({k: v for k, v in run.distance.items() if k not in of_latents})
    for name, values in scored.influence.items():
        assert_near(torch.from_numpy(values), torch.from_numpy(run.influence[name]))
    assert scored.content["measurement"] == run.content["measurement"]
    assert scored.cost["cache_ratio"] == pytest.approx(run.cost["cache_ratio"])
    assert "3, as said" in str(scored)
    rows = comparison(*compared_points([(r.folder, dict(r.content)) for r in (run, scored)])).set_index("")
    assert rows.loc["fid", "two paired errors"] == "tie"
    assert not [name for name in rows.index if name.startswith(("mse", "relative_l2"))]


def test_forms_of_the_same_images_are_measured_alike(runs: Path, tmp_path: Path) -> None:
    """An array, channels first or last, and a folder whose names sort otherwise as texts than as numbers."""
    pixels = images(runs)
    (tmp_path / "folder").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture[..., 0]).save(tmp_path / "folder" / f"{number}.png")
    forms: list[Any] = [pixels, pixels.transpose(0, 3, 1, 2), tmp_path / "folder"]
    results = [goc.score(form, *OF_RUN, name=f"form {i}", paired=True) for i, form in enumerate(forms)]
    for result in results[1:]:
        assert result.metrics == pytest.approx(results[0].metrics)
        assert_near(*(torch.from_numpy(of.influence["fid"]) for of in (result, results[0])))


def test_what_is_not_paired_has_the_error_of_two_independent_numbers(runs: Path) -> None:
    run = goc.Result.load(runs / "uncached")
    scored = goc.score(images(runs), *OF_RUN, name="theirs")
    (apart,) = goc.compare(run, scored).set_index("").loc[["fid"], "difference"]
    paired = goc.score(images(runs), *OF_RUN, name="paired", paired=True)
    (together,) = goc.compare(run, paired).set_index("").loc[["fid"], "difference"]
    assert apart != together
    assert not (scored.folder / "influence.safetensors").exists()


def test_a_scored_row_stands_beside_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from goc.report.study import main

    goc.score(images(runs), *OF_RUN, name="their cache", evaluations=3, gmacs=0.05)
    assert main([str(runs), "outputs/scored", "--out", "report"]) == 0
    rows = pd.read_csv(tmp_path / "report" / "results.csv").set_index("method")
    assert rows.loc["their cache", ["fid", "evaluations", "gmacs"]].notna().all()
    assert rows["measurement"].nunique() == 1
    table = (tmp_path / "report" / "table.md").read_text()
    assert "No paired error for their cache: its images are not paired with others." in table
    assert "their cache" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("grey --name a --out grey", "error: out=grey: must not be in grey, whose images are read"),
        ("grey --name a --out other", "error: name=a: other holds another result; choose another name or --out"),
        ("grey --name a num_samples=30", "error: num_samples=30: must be 2, as many as there are images"),
        ("grey --name a class_labels=balanced", "error: class_labels=balanced: num_samples=2 must be a multiple of"),
        ("named.npz --name a", "error: images=named.npz: holds no images (arr_0), but samples uint8 [2, 8, 8, 1]"),
        (f"grey --name {'a' * 101}", f"error: name='{'a' * 100}': must be a few words"),
        ("missing --name a", "error: images=missing: no such folder or file"),
        ("mixed --name a", "error: images=mixed: 1.png is 9x8 pixels, not 8x8"),
        ("grey --name a --against mixed", "error: against=mixed: 1.png is 9x8 pixels, not 8x8"),
        ("grey --name a --against three", "error: against=three: 3 images of 8x8 pixels, must be 2 of 8x8"),
        ("three --name a --evaluations 21 metrics=[isc]", "error: evaluations=21: must be more than 0 and at most 20"),
        ("grey --name a --gmacs -1", "error: gmacs=-1.0: must be a number above 0"),
        ("grey --name= ", "error: name='': must be a few words"),
        ("grey --name a method=goc", "error: schedule=uniform: must be none"),
        ("grey --name a metrics=[clip]", "error: metrics=clip: not supported with digits"),
        ("grey --name a metrics=[fid] model.reference=nothing.npz", "error: model.reference=nothing.npz: no such file"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    from goc.cli.main import command

    for name, sizes in {"mixed": (8, 9), "grey": (8, 8), "three": (8, 8, 8)}.items():
        (tmp_path / name).mkdir()
        for number, width in enumerate(sizes):
            Image.fromarray(np.full((8, width), 40 * number, np.uint8)).save(tmp_path / name / f"{number}.png")
    np.savez(tmp_path / "named.npz", samples=np.zeros((2, 8, 8, 1), np.uint8))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["goc", "score", *arguments.split()])
    assert command() == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(message)
    assert [path.read_text() for path in tmp_path.rglob("result.json")] == ["{}"]


def test_images_of_no_model_here_are_scored_against_a_reference_alone(runs: Path) -> None:
    of_a_run = goc.score(images(runs), *OF_RUN, name="of a model")
    reference = goc.Result.load(of_a_run.folder).content["config"]["model"]["reference"]
    scored = goc.score(images(runs), "model.extractor=digits", name="theirs", reference=reference, metrics=["fid"])
    assert scored.metrics == pytest.approx(of_a_run.metrics)
    assert scored.content["measurement"]["model"] == "elsewhere"


@pytest.mark.parametrize(
    "no_images", [None, (row for row in "ab"), [np.zeros((8, 8)), np.zeros((8, 9))], torch.zeros(2, requires_grad=True)]
)
def test_what_is_no_array_is_one_line(no_images: Any) -> None:
    with pytest.raises(GocError, match=r"^images=\.\.\.: must be a folder, an .npz file, or an array of uint8 \(.*\)$"):
        goc.score(no_images, *OF_RUN)


def test_a_name_is_of_one_set_of_images_and_stays_in_its_folder(runs: Path, tmp_path: Path) -> None:
    scored = goc.score(images(runs), *OF_RUN, name="..")
    assert scored.folder.resolve().parent == tmp_path / "outputs" / "scored"
    again = goc.score(images(runs), *OF_RUN, name="..")
    assert again.metrics == scored.metrics
    with pytest.raises(GocError, match=r"outputs/scored/- holds the score of other images; choose another name"):
        goc.score(images(runs)[1:], *OF_RUN, name="..")
    assert goc.Result.load(scored.folder).metrics == scored.metrics


def test_rows_of_which_nobody_says_the_cost_have_a_report(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goc.report import plots, study

    monkeypatch.setattr(study, "plot_tradeoff", plots.plot_tradeoff)  # which other tests here go without
    for name, of in {"theirs": images(runs), "others": 255 - images(runs)}.items():
        goc.score(of, *OF_RUN, name=name)
    assert study.main(["outputs/scored", "--out", "report"]) == 0
    rows = pd.read_csv(tmp_path / "report" / "results.csv")
    assert rows["evaluations"].isna().all()
    assert set(rows["method"]) == {"theirs", "others"}
    assert {"report.html", "tradeoff.png"} <= {path.name for path in (tmp_path / "report").iterdir()}
