"""FID by one extractor and FD by another: the digits' two, DINOv2 on grey images, images made elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import QUICK

import goc
from goc.cli.random_weights import write_dinov2
from goc.metrics.features import load_extractor
from goc.metrics.fidelity import fid_statistics_to_metric
from goc.metrics.reference import load_reference
from goc.metrics.statistics import moments
from goc.report.study import main as report
from goc.system.errors import ConfigError
from goc.system.files import resolve

SECOND = "metrics=[fid,fd_second,kd_second,prc_second]"

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cached run and an uncached one of 24 digits, seen by both extractors."""
    folder = tmp_path_factory.mktemp("second")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method in ("none", "reuse"):
            goc.run(f"method={method}", "cache_ratio=0.4", *QUICK, SECOND, "save_images=npz", "converged_samples=0")
    return folder


def runs_of(study: Path) -> list[goc.Result]:
    return [goc.Result.load(path.parent) for path in sorted(study.glob("outputs/*/*/result.json"))]


def test_the_second_distance_is_frechets_of_the_second_extractors_features(study: Path) -> None:
    cpu = torch.device("cpu")
    extractor = load_extractor("digits_simclr", None, cpu)
    real = load_reference(resolve("asset:digits/reference-simclr.safetensors"), extractor, 8, True, None)
    for run in runs_of(study):
        images = torch.from_numpy(np.load(run.folder / "images.npz")["arr_0"]).permute(0, 3, 1, 2)
        statistics = moments([extractor.extract(images).features]).statistics()
        expected = fid_statistics_to_metric(statistics, {"mu": real.mu, "sigma": real.sigma}, verbose=False)
        assert run.metrics["fd_second"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
        assert run.metrics["fd_second"] != pytest.approx(run.metrics["fid"], rel=0.1)
        assert {"fd_second_se", "kd_second", "kd_second_se", "precision_second", "recall_second_se"} <= {*run.metrics}
        spread = run.influence["fd_second"].std() / len(images) ** 0.5
        assert run.metrics["fd_second_se"] == pytest.approx(spread, rel=1e-4)
        said = run.content["measurement"]
        assert (said["second_extractor"], len(said["second_extractor_sha256"])) == ("digits_simclr", 64)
        assert len(said["second_reference_sha256"]) == 64


def test_the_first_numbers_and_the_folder_are_those_without_it(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = goc.run("method=none", "cache_ratio=0.4", *QUICK, "metrics=[fid]", "converged_samples=0")
    (beside,) = (run for run in runs_of(study) if run.folder.name == alone.folder.name)
    assert alone.metrics["fid"] == beside.metrics["fid"]
    assert not any("second" in key for key in [*alone.config["model"], *alone.content["measurement"]])
    again = goc.run("method=none", "cache_ratio=0.4", *QUICK, SECOND, "converged_samples=0")
    assert again.metrics == beside.metrics  # from shards that had no second features


def test_images_made_elsewhere_have_the_runs_second_distance(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    run = runs_of(study)[0]
    scored = goc.score(run.folder / "images.npz", "model=digits", "steps=5", SECOND, name="theirs")
    assert scored.metrics == pytest.approx(run.metrics)
    assert scored.content["measurement"] == run.content["measurement"]


def test_the_report_shows_both_side_by_side_and_says_whether_they_agree(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([str(study / "outputs")]) == 0
    assert "FD-second" in capsys.readouterr().out
    table = (study / "outputs" / "table.md").read_text()
    heads = [head.strip() for head in next(line for line in table.splitlines() if "| fid" in line).split("|")]
    assert heads.index("fd_second") == heads.index("fid") + 1
    page = (study / "outputs" / "report.html").read_text()
    assert all("FID and FD-second" in text for text in (table, page))


def test_dinov2_sees_grey_images_of_any_size(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dinov2(tmp_path / "dinov2.pth", seed=0, size="tiny")
    real = study / "real.npz"
    np.savez(real, arr_0=np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8))
    files = (f"model.second_extractor_weights={tmp_path / 'dinov2.pth'}", f"model.second_reference={real}")
    settings = ("model.second_extractor=dinov2", *files, "num_samples=6", "metrics=[fid,fd_dinov2,kd_dinov2]")
    result = goc.run("method=none", *QUICK, *settings, "converged_samples=0")
    assert result.metrics["fd_dinov2"] > 0
    assert {"fd_dinov2_se", "kd_dinov2"} <= result.metrics.keys()
    assert result.content["measurement"]["second_extractor"] == "dinov2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("metrics=[fd_dinov2]", r"metrics=fd_dinov2: must be fd_second with model\.second_extractor=digits_simclr"),
        ("metrics=[fd_second] model.second_extractor=vgg", r"model\.second_extractor=vgg: must be one of digits, "),
        ("metrics=[isc] model.extractor=timm:resnet18", r"metrics=isc: not supported with model\.extractor=timm:resn"),
        ("metrics=[fd_second] model.extractor=dinov2", r"model\.second_extractor=null: must be named for metrics="),
    ],
)
def test_what_cannot_be_had_is_one_line_before_anything_is_loaded(settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        goc.run("method=none", *QUICK, *settings.split())
    assert "\n" not in str(raised.value)
