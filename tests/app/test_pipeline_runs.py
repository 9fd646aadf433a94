"""run.py on a tiny random pipeline, end to end: results, resuming, workers, metrics, the report, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from application import Run, call_here
from checkout import REPOSITORY, only_result, run_environment
from PIL import Image
from refusals import assert_refused
from safetensors.numpy import load_file
from tiny_videos import CALL, FRAMES
from tiny_videos import write as write_video
from warm import WarmProcess, free_port

SMALL = ("num_samples=5", "batch_size=2", "steps=4", "latency_repeats=0", "calibration_samples=2")
HALF = ("method=reuse", "cache_ratio=0.5")
RunTiny = Callable[..., dict[str, Any]]


@pytest.fixture
def of_tiny(tiny_pipeline: Path) -> tuple[str, ...]:
    """Settings of a small run of the tiny pipeline."""
    return "model=pipeline", f"model.pipeline={tiny_pipeline}", f"prompts={tiny_pipeline}/prompts.txt", *SMALL


@pytest.fixture
def run_tiny(run_here: Run, of_tiny: tuple[str, ...], tmp_path: Path) -> RunTiny:
    """Run the tiny pipeline in tmp_path/here, and read its result."""

    def run(*settings: str) -> dict[str, Any]:
        run_here(*of_tiny, *settings, "hydra.run.dir=here")
        return only_result(tmp_path / "here")

    return run


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("shard-*")}


def test_a_run_has_distances_costs_and_a_measurement_of_its_own(run_tiny: RunTiny, tmp_path: Path) -> None:
    result = run_tiny(*HALF, "latency_repeats=1")
    assert result["method"] == "reuse"
    assert result["metrics"] == {}
    assert {"relative_l2_median", "psnr_image", "psnr_image_se", "ssim", "ssim_se"} <= result["distance"].keys()
    assert "drift" not in result["distance"]
    assert result["cost"]["evaluations"] == 2
    assert result["cost"]["cache_ratio"] == 0.5
    assert 0.3 < result["cost"]["macs_saved"] < 0.5
    assert result["cost"]["latency_ratio"] > 0
    measurement = result["measurement"]
    assert measurement["objective"] == "pipeline"
    assert len(measurement["model_sha256"]) == len(measurement["prompts_sha256"]) == 64
    assert "cfg_channels" not in measurement
    influence = load_file(tmp_path / "here" / "influence.safetensors")
    assert influence["psnr_image"].shape == (5,)
    with Image.open(tmp_path / "here" / "samples.png") as grid:
        assert grid.width > 32


def test_a_run_selects_tokens(run_tiny: RunTiny) -> None:
    result = run_tiny("method=toca", "schedule.interval=4", "selection.ratio=0.1", "num_samples=2")
    assert result["method"] == "toca"
    cost = result["cost"]
    assert 0 < cost["cache_ratio"] < sum(result["cached_share"]) / 4
    assert 0 < cost["macs_saved"] < cost["cache_ratio"]


def test_a_stopped_run_goes_on_to_the_same_bytes(run_tiny: RunTiny, tmp_path: Path) -> None:
    first = run_tiny(*HALF)
    folder = tmp_path / "here"
    expected = shards(folder)
    assert len(expected) == 3
    (folder / "result.json").unlink()
    (folder / "samples" / "shard-000002-000003.safetensors").unlink()
    (folder / "samples" / "shard-000004-000004.safetensors").write_bytes(b"damaged")
    again = run_tiny(*HALF)
    assert shards(folder) == expected
    for part in ("distance", "metrics"):
        assert again[part] == first[part]
    assert again["cost"]["gmacs_per_image"] == first["cost"]["gmacs_per_image"]


@pytest.mark.nightly
def test_two_workers_make_what_one_makes(of_tiny: tuple[str, ...], tmp_path: Path) -> None:
    def start(folder: str, **torchrun: Any) -> WarmProcess:
        (tmp_path / folder).mkdir(exist_ok=True)
        environment = {**run_environment(), **{name: str(value) for name, value in torchrun.items()}}
        settings = [*of_tiny, "method=goc", "cache_ratio=0.5", "hydra.run.dir=here"]
        return WarmProcess([str(REPOSITORY / "run.py"), *settings], tmp_path / folder, environment)

    port = free_port()
    together = [start("two", RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_PORT=port) for rank in range(2)]
    for process in [start("one"), *together]:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert shards(tmp_path / "two") == shards(tmp_path / "one")
    assert only_result(tmp_path / "two")["workers"] == 2


def test_methods_and_the_uncached_run_stand_in_one_table(
    run_here: Run, of_tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run_here("-m", *of_tiny, "method=none,reuse,goc", "cache_ratio=0.5", "name=study")
    rows = pd.read_csv(tmp_path / "outputs" / "study" / "results.csv").set_index("method")
    assert rows["evaluations"].to_dict() == {"none": 4, "reuse": 2, "goc": 2}
    assert set(rows["solver"]) == {"scheduler-4"}
    table = (tmp_path / "outputs" / "study" / "table.md").read_text()
    assert "| no cache" in table
    assert "psnr_image" in table
    for name in ("tradeoff.png", "report.html"):
        assert (tmp_path / "outputs" / "study" / name).stat().st_size > 300


def test_each_image_is_scored_beside_its_prompt(run_tiny: RunTiny, tiny_pipeline: Path, tmp_path: Path) -> None:
    models = [f"model.{name}={tiny_pipeline}/{name}" for name in ("clip", "blip")]
    result = run_tiny(*HALF, "metrics=[clip,clip_iqa,blip_itm]", *models)
    each = load_file(tmp_path / "here" / "influence.safetensors")
    for name, largest in (("clip", 100), ("clip_iqa", 1), ("blip_itm", 1)):
        scores = each[name]
        assert scores.shape == (5,)
        assert ((scores >= 0) & (scores <= largest)).all()
        assert result["metrics"][name] == pytest.approx(scores.mean())
        assert result["metrics"][f"{name}_se"] == pytest.approx(scores.std() / 5**0.5)
    assert len({result["measurement"][f"{name}_sha256"] for name in ("clip", "blip")} - {None}) == 2


@pytest.mark.nightly
def test_fid_and_drift_are_there_where_an_extractor_and_a_folder_of_images_are(
    run_tiny: RunTiny, inception_file: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    scored = ("metrics=[fid]", "model.extractor=inception", f"model.extractor_weights={inception_file}")
    result = run_tiny(*HALF, *scored, f"model.reference={pictures}")
    assert result["metrics"]["fid"] > 0
    assert result["metrics"]["fid_se"] > 0
    assert result["distance"]["drift"] > 0
    assert len(result["measurement"]["reference_sha256"]) == 64


def test_other_prompts_under_the_same_name_are_another_measurement(
    run_here: Run, of_tiny: tuple[str, ...], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    settings = (*of_tiny[:2], "prompts=prompts.txt", *of_tiny[3:], *HALF, "hydra.run.dir=here")
    run_here(*settings)
    prompts.write_text("a dog\n")
    refused = run_here(*settings, check=False)
    assert refused.returncode == 1
    assert "here: holds a run of another config (prompts_sha256=" in refused.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("prompts=missing.txt", "error: prompts=missing.txt: no such file"),
        ("model.pipeline=missing", "error: model.pipeline=missing: no such folder; must be a folder in diffusers'"),
        ("model.clip=missing metrics=[clip]", "error: model.clip=missing: no such folder; must be a CLIP"),
        ("model.blip=missing metrics=[blip_itm]", "error: model.blip=missing: no such folder; must be a BLIP"),
        ("+model.call.heigth=64", "error: model.call.heigth: StableDiffusion3Pipeline has no such argument"),
        ("sampler=ddim", "error: sampler=ddim: must be one of scheduler with model.objective=pipeline (tiny)"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    of_tiny: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str], settings: str, message: str
) -> None:
    refused = call_here(tmp_path, capfd, *of_tiny, *settings.split(), check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith(message)
    assert refused.stderr.count("\n") == 1
    shutil.rmtree(tmp_path / "outputs", ignore_errors=True)


def test_a_finished_run_is_only_read_back(run_tiny: RunTiny, tmp_path: Path) -> None:
    first = run_tiny(*HALF)
    stamp = (tmp_path / "here" / "result.json").stat().st_mtime_ns
    assert run_tiny(*HALF) == first
    assert (tmp_path / "here" / "result.json").stat().st_mtime_ns == stamp
    assert json.loads((tmp_path / "here" / "run.json").read_text())["prompts_sha256"]


@pytest.fixture(scope="module")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video"))


@pytest.fixture
def of_video(tiny_video: Path) -> tuple[str, ...]:
    return ("model=pipeline", f"model.pipeline={tiny_video}", f"prompts={tiny_video}/prompts.txt", *CALL,
            "num_samples=2", "batch_size=2", "steps=6", "latency_repeats=0", "calibration_samples=2")  # fmt: skip


def test_videos_of_two_transformers_are_scored_frame_by_frame(
    run_here: Run, of_video: tuple[str, ...], tmp_path: Path
) -> None:
    run_here(*of_video, *HALF, "hydra.run.dir=here")
    result = only_result(tmp_path / "here")
    # the second transformer begins anew: of six steps, 1 and 5 are cached
    assert result["cost"]["cache_ratio"] == pytest.approx(1 / 3)
    (shard,) = (load_file(path) for path in (tmp_path / "here").rglob("shard-*"))
    samples, channels, height, width = shard["images"].shape
    assert (samples, channels, width) == (2, 3, FRAMES * height)
    assert shard["frames"].tolist() == [FRAMES] * 2
    (path,) = tmp_path.glob("outputs/cache/uncached-*/shard-*")
    target = load_file(path)["images"]

    def frames(pictures: np.ndarray) -> np.ndarray:
        return np.stack(np.split(pictures.astype(float), FRAMES, axis=3), axis=1)

    errors = ((frames(shard["images"]) - frames(target)) ** 2).mean(axis=(2, 3, 4))
    assert result["distance"]["psnr_image"] == pytest.approx((10 * np.log10(255**2 / errors)).mean())
    assert 0 < result["distance"]["ssim"] < 1


def test_features_of_videos_are_refused(run_here: Run, of_video: tuple[str, ...]) -> None:
    assert_refused(
        run_here(*of_video, "model.extractor=digits", check=False), "model.extractor=digits: must be null with Wan"
    )


@pytest.fixture
def of_pictures(tiny_pipeline: Path, tmp_path: Path) -> tuple[str, ...]:
    """Settings of a run that starts at a picture."""
    folder = tmp_path / "img2img"
    shutil.copytree(tiny_pipeline, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusion3Img2ImgPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    return "model=pipeline", f"model.pipeline={folder}", f"prompts={folder}/prompts.txt", *SMALL, "steps=8"


def test_a_call_that_starts_at_a_picture_names_its_file_and_depends_on_it(
    run_here: Run, of_pictures: tuple[str, ...], tmp_path: Path
) -> None:
    picture, noise = tmp_path / "photo.png", np.random.default_rng(0)
    hashes, made = [], []
    for folder in ("one", "two"):
        Image.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(picture)
        run_here(*of_pictures, *HALF, f"+model.call.image={picture}", f"hydra.run.dir={folder}")
        result = only_result(tmp_path / folder)
        hashes.append(result["measurement"]["call_image_sha256"])
        made.append(shards(tmp_path / folder))
        assert 0 < result["cost"]["cache_ratio"] < 1
    assert hashes[0] != hashes[1]
    assert made[0] != made[1]
    transparent = np.zeros((32, 32, 4), dtype=np.uint8)
    Image.fromarray(transparent).save(picture)
    finished = run_here(*of_pictures, f"+model.call.image={picture}", "hydra.run.dir=three", check=False)
    assert_refused(finished, "photo.png: has transparent pixels, and what is behind them is not known")
    picture.write_text("no picture")
    finished = run_here(*of_pictures, f"+model.call.image={picture}", "hydra.run.dir=four", check=False)
    assert_refused(finished, "photo.png: is damaged or no image")
    assert_refused(
        run_here(*of_pictures, "+model.call.image=nowhere.png", check=False), "model.call.image=nowhere.png: no such"
    )


@pytest.mark.nightly
def test_compiled_blocks_cost_what_the_others_do(run_tiny: RunTiny, tmp_path: Path) -> None:
    plain = run_tiny(*HALF)
    shutil.rmtree(tmp_path / "here")
    compiled = run_tiny(*HALF, "compile=true")
    for key in ("gmacs_per_image", "macs_saved", "cache_ratio"):
        assert compiled["cost"][key] == plain["cost"][key]
    assert compiled["distance"]["relative_l2"] == pytest.approx(plain["distance"]["relative_l2"], rel=1e-3)


def test_parts_are_not_moved_about_without_a_gpu(run_here: Run, of_tiny: tuple[str, ...]) -> None:
    if not torch.cuda.is_available():
        assert_refused(
            run_here(*of_tiny, *HALF, "offload=model", check=False), "offload=model: must be null without a GPU"
        )
    assert_refused(run_here(*of_tiny, *HALF, "offload=disk", check=False), "offload=disk: must be model, or null")
