"""The ImageNet pipeline at its real shapes: DiT-S/2, VAE and Inception with random weights in the released formats."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from application import Run
from checkout import only_result
from PIL import Image

from goc.cli import random_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("weights")
    assert random_weights.main(["--out", str(folder), "--tiny-vae", "--reference-images", "4"]) == 0
    yield folder
    shutil.rmtree(folder)  # 300 MB, which pytest would keep for three sessions


def settings(weights: Path) -> tuple[str, ...]:
    return (
        "model=dit_s_2_256",
        f"model.checkpoint={weights / 'DiT-S-2-256x256.pt'}",
        f"vae={weights / 'vae'}",
        f"model.extractor_weights={weights / 'inception.pth'}",
        f"model.reference={weights / 'reference.npz'}",
        "num_samples=2",
        "batch_size=1",
        "steps=2",
        "cfg_scale=1.5",
        "calibration_samples=1",
        "converged_samples=0",
        "latency_repeats=0",
        "metrics=[isc,fid,sfid]",
    )


def test_the_whole_protocol_runs_from_the_command_line(run_here: Run, weights: Path, tmp_path: Path) -> None:
    run_here(*settings(weights), "save_images=npz", "distance_samples=1", "hydra.run.dir=goc")
    result = only_result(tmp_path)
    assert {"is", "fid", "sfid"} <= result["metrics"].keys()
    assert all(np.isfinite(value) for value in result["metrics"].values())
    assert result["cost"]["cache_ratio"] == 0.5
    # DiT-S/2 at 256x256: 6.06 GMACs a pass (the DiT paper, table 4), twice for guidance, two steps
    assert result["cost"]["gmacs_per_forward"] == pytest.approx(6.06, abs=0.01)
    with np.load(tmp_path / "goc" / "images.npz") as images:
        assert images["arr_0"].shape == (2, 256, 256, 3)
        assert images["arr_0"].dtype == np.uint8
        assert images["arr_0"].std() > 1
    with Image.open(tmp_path / "goc" / "samples.png") as picture:
        assert picture.size == (8 * 257, 257)

    shared, way = result["measurement"], result["way"]
    assert {name for name in shared if name.endswith("sha256")} == {
        "model_sha256",
        "vae_sha256",
        "extractor_sha256",
        "reference_sha256",
    }
    assert all(len(shared[name]) == 64 for name in shared if name.endswith("sha256"))
    assert shared["uint8"] == "clamp(127.5 x + 128, 0, 255), truncated"
    assert (way["sampler"], way["steps"], shared["cfg_scale"]) == ("ddim", 2, 1.5)
    assert {"ssim", "relative_l2_median"} <= result["distance"].keys()
    assert result["converged"] is None  # 0 samples of it are the default at this size


@pytest.mark.nightly  # test_experiments.py checks all ways of all tables, and the tokens' tests run them
@pytest.mark.parametrize(
    ("experiment", "way"),
    [
        ("paper_speca", ["method=speca", "schedule.min_taylor_steps=1"]),
        ("paper_toca", ["method=toca", "schedule.interval=3", "selection.ratio=0.07"]),
        ("paper_taylorseer", ["method=taylorseer", "schedule.interval=3", "predictor.order=3"]),
    ],
)
def test_a_way_of_a_papers_table_runs_at_real_shapes(
    run_here: Run, weights: Path, tmp_path: Path, experiment: str, way: list[str]
) -> None:
    run_here(f"experiment={experiment}", *settings(weights), *way, "steps=6", "distance_samples=0")
    result = only_result(tmp_path)
    assert result["method"].startswith(way[0].removeprefix("method="))
    assert 0 < result["cost"]["cache_ratio"] < 1
    assert np.isfinite(result["metrics"]["fid"])


def error_line(run_here: Run, *arguments: str) -> str:
    finished = run_here(*arguments, check=False)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    return finished.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("vae=nowhere/vae/x", ["vae=nowhere/vae/x", "config.json", "one of ema, mse"]),
        ("vae=null", ["vae=null: DiT-S/2-256 makes latents of 4 channels", "ema, mse"]),
        ("model.checkpoint=nowhere.pt", ["model.checkpoint=nowhere.pt: no such file", "goc fetch"]),
        ("model.extractor_weights=nowhere.pth", ["model.extractor_weights=nowhere.pth", "goc fetch"]),
        ("model.reference=nowhere.npz", ["model.reference=nowhere.npz", "goc fetch"]),
        ("model.input_size=64", ["does not fit the model", "pos_embed [1, 256, 384] instead of [1, 1024, 384]"]),
        ("model.input_size=33", ["model.input_size=33: must be a multiple of patch_size"]),
    ],
)
def test_missing_or_unfitting_files_are_one_line(
    run_here: Run, weights: Path, setting: str, expected: list[str]
) -> None:
    line = error_line(run_here, *settings(weights), setting)
    assert all(part in line for part in expected), line


def test_a_checkpoint_that_wants_to_run_code_is_refused(run_here: Run, weights: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "pwned"),)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"blocks": Malicious()}))
    torch.save({"blocks": Malicious()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        assert f"model.checkpoint={name}" in error_line(run_here, *settings(weights), f"model.checkpoint={name}")
    assert not (tmp_path / "pwned").exists()


def test_a_damaged_vae_is_one_line(run_here: Run, weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights / "vae", tmp_path / "vae")
    tensors = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    assert "vae=vae: no AutoencoderKL, or damaged" in error_line(run_here, *settings(weights), "vae=vae")
    shutil.copytree(weights / "vae", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "latent_channels": 16}))
    assert "vae=other" in error_line(run_here, *settings(weights), "vae=other")
