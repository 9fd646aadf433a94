"""run.py as a user runs it."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from application import ONE_AFTER_THE_OTHER, STUDY, Run, Study
from checkout import QUICK, REPOSITORY, SMALL, only_result, run_environment
from PIL import Image
from safetensors.torch import load_file, save_file

from goc.report.compare import main as compare
from goc.report.study import main as report
from goc.system.command import run_command
from goc.system.files import ASSETS


def contrast(path: Path) -> float:
    """Spread of a picture's pixels; zero for an empty one."""
    with Image.open(path) as picture:
        return float(np.asarray(picture).std())


def times(folder: Path, pattern: str = "shard-*") -> dict[Path, int]:
    """When files below a folder were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern)}


def test_a_run_writes_its_result_and_pictures(study: Study) -> None:
    result = study.result("goc")
    assert result["method"] == "goc"
    assert result["config"]["cache_ratio"] == 0.4
    assert result["cached_steps"] == [1, 3]
    assert result["cost"]["cache_ratio"] == pytest.approx(0.4)
    assert {"fid", "is"} <= result["metrics"].keys()
    assert result["distance"]["mse"] > 0
    cached, uncached = result["cost"]["ms_per_image"], result["cost"]["ms_per_image_uncached"]
    assert cached > 0
    assert result["cost"]["latency_ratio"] == pytest.approx(cached / uncached)
    assert result["cost"]["peak_cache_tensors"] == 24
    assert result["software"]["torch"]
    assert len(result["inflection"]["alignment"]) == 5
    for picture in ("samples.png", "alignment.png"):
        assert contrast(study.run("goc") / picture) > 10
    assert "img/s" in study.finished.stderr  # a progress bar with its rate


def test_a_finished_run_is_read_back(study_copy: Study, run_here: Run) -> None:
    again = run_here("method=goc", "cache_ratio=0.4", *STUDY)
    rows = [line for line in again.stdout.splitlines() if "written to" not in line]
    assert "\n".join(rows) in study_copy.finished.stdout  # the same numbers, and nothing was made again
    for shown in ("fid", "MACs", "latency", "alignment", "result.json"):
        assert shown in again.stdout
    assert "img/s" not in again.stderr


def test_another_metric_is_computed_without_generating_again(study_copy: Study, run_here: Run) -> None:
    made, first = times(study_copy.outputs), study_copy.result("goc")
    run_here("method=goc", "cache_ratio=0.4", *STUDY[:-2], "latency_repeats=0")
    second = study_copy.result("goc")
    assert times(study_copy.outputs) == made
    assert {"fid", "is", "kid", "precision", "recall"} <= second["metrics"].keys()
    assert all(np.isfinite(value) for value in second["metrics"].values())
    assert {name: second["metrics"][name] for name in first["metrics"]} == first["metrics"]


def test_a_sweep_runs_every_combination_and_reports(study: Study) -> None:
    assert len(list(study.folder.rglob("result.json"))) == 5  # without a cache there is nothing to vary
    rows = (study.folder / "tradeoff.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["goc", "reuse", "goc", "reuse", "none"]  # by cost
    assert contrast(study.folder / "tradeoff.png") > 10
    assert "tradeoff.png" in study.finished.stdout
    assert "will be refused" not in study.finished.stdout + study.finished.stderr
    # the uncached samples and the calibration are shared
    assert len(list((study.outputs / "cache").glob("uncached-*/"))) == 1
    assert len(list((study.outputs / "cache").glob("alignment-*[!k]"))) == 1


@pytest.mark.usefixtures("without_plots")
def test_a_sweep_of_4_of_which_2_fail_reports_2_and_again_runs_only_what_is_missing(
    run_here: Run, tmp_path: Path
) -> None:
    sweep = ("-m", "method=reuse", "cache_ratio=0.6,1.5", "name=four", *QUICK, "num_samples=4", "batch_size=4")
    finished = run_here(*sweep, "seed=0,1", check=False)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    refused = "cache_ratio=1.5: must be in [0, 1)"
    assert finished.stderr.count(f"error: {refused}") == 2
    assert finished.stderr.split("2 failed:")[1].count(refused) == 2
    folder = tmp_path / "outputs" / "four"
    assert len(pd.read_csv(folder / "results.csv")) == 2
    points = pd.read_csv(folder / "tradeoff.csv")
    assert points["seed"].tolist() == ["0,1"]
    assert (points["fid_spread"] > 0).all()
    assert (folder / "report.html").read_text().count(refused) == 2

    removed = next(path for path in folder.glob("*/result.json") if json.loads(path.read_text())["config"]["seed"] == 0)
    removed.unlink()
    made = times(tmp_path, "result.json") | times(tmp_path, "samples.png")
    run_here(*sweep, "seed=0", check=False)
    assert {path for path, time in made.items() if path.stat().st_mtime_ns != time} == {removed.parent / "samples.png"}
    assert removed.exists()


def test_images_are_kept_as_files_that_can_be_the_reference_of_another_run(run_here: Run, tmp_path: Path) -> None:
    """24 digits: their distance to themselves is nothing beside the one to real digits (which is over 100)."""
    run_here(*QUICK, "save_images=npz", "hydra.run.dir=npz")
    others = [run_here(*QUICK, "save_images=png", "model.reference=npz/images.npz", "hydra.run.dir=png"),
              run_here(*QUICK, "model.reference=png/images", "hydra.run.dir=last")]  # fmt: skip
    with np.load(tmp_path / "npz" / "images.npz") as archive:
        images = archive["arr_0"]
    assert images.shape == (24, 8, 8, 1)
    files = sorted((tmp_path / "png" / "images").glob("*.png"))
    assert [path.name for path in files] == [f"{index:06d}.png" for index in range(24)]
    for path, image in zip(files, images, strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), image[..., 0])
    fid = [only_result(tmp_path / name)["metrics"]["fid"] for name in ("npz", "png", "last")]
    assert max(map(abs, fid[1:])) < 1e-5 * fid[0]
    for finished, named in zip(others, ("npz/images.npz", "png/images"), strict=True):
        assert f"model.reference={named}: 24 images of 8x8 pixels used" in finished.stdout + finished.stderr


def test_distance_samples_are_the_only_ones_made_twice(run_here: Run, tmp_path: Path) -> None:
    run_here(*QUICK, "metrics=[]", "distance_samples=5", "hydra.run.dir=some")
    assert len(list((tmp_path / "outputs" / "cache").glob("uncached-*/shard-*"))) == 1  # whole shards of 12
    assert only_result(tmp_path / "some")["distance"]["mse"] > 0
    run_here(*QUICK, "distance_samples=0", "hydra.run.dir=none", "cache_dir=other")
    assert only_result(tmp_path / "none")["distance"] == {}
    assert not list((tmp_path / "other").glob("uncached-*/shard-*"))


def test_a_ratio_that_the_steps_do_not_allow_says_what_it_became(run_here: Run, tmp_path: Path) -> None:
    finished = run_here(*QUICK, "metrics=[]", "cache_ratio=0.5")
    assert "cache_ratio=0.5: became 0.4, the closest that schedule=uniform allows with steps=5" in finished.stderr
    assert only_result(tmp_path)["cost"]["cache_ratio"] == pytest.approx(0.4)


def error_line(run_here: Run, *arguments: str) -> str:
    """The one line on stderr of a run that must fail with exit code 1."""
    finished = run_here(*SMALL, *arguments, check=False)
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    assert len(lines) == 1, finished.stderr
    return lines[0]


def test_a_folder_that_holds_a_run_of_another_config_is_left_alone(study_copy: Study, run_here: Run) -> None:
    folder = study_copy.run("goc")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = error_line(run_here, f"hydra.run.dir={folder}", "cache_ratio=0.2")
    assert f"{folder.name}: holds a run of another config (cache_ratio=0.4 there, 0.2 here)" in line
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_weights_at_the_same_path_are_noticed(run_here: Run, tmp_path: Path) -> None:
    weights = load_file(ASSETS / "digits" / "diffusion-0.safetensors")
    save_file(weights, tmp_path / "w.safetensors")
    run_here(*QUICK, "metrics=[]", "model.checkpoint=w.safetensors")
    weights["final_layer.linear.bias"] += 0.1
    save_file(weights, tmp_path / "w.safetensors")
    assert "holds a run of another config (model_sha256=" in error_line(run_here, "model.checkpoint=w.safetensors")


def test_an_adaptive_run_reports_what_really_ran(run_here: Run, tmp_path: Path) -> None:
    run_here(*QUICK, "metrics=[]", "method=teacache", "schedule.threshold=1e9")
    cost = only_result(tmp_path)["cost"]
    assert cost["cache_ratio"] == pytest.approx(3 / 5)  # all but the first and the last step
    assert cost["macs_saved"] == pytest.approx(3 / 5, abs=0.01)


@pytest.mark.parametrize(
    "method", ["smoothcache", "teacache", pytest.param("smoothcache_goc", marks=pytest.mark.nightly)]
)
def test_a_calibrated_schedule_comes_close_to_its_target_ratio(run_here: Run, tmp_path: Path, method: str) -> None:
    """The smallest change of a ratio is one branch of one step, or for TeaCache a step: here 1/40, and 1/20."""
    few = ("num_samples=4", "batch_size=4", "calibration_samples=24", "converged_samples=0", "latency_repeats=0")
    run_here(*few, "metrics=[]", f"method={method}", "cache_ratio=0.5")
    result = only_result(tmp_path)
    assert result["cost"]["cache_ratio"] == pytest.approx(0.5, abs=0.051)
    assert result["cost"]["macs_saved"] == pytest.approx(result["cost"]["cache_ratio"], abs=0.03)
    assert result["distance"]["mse"] > 0


def test_a_damaged_calibration_is_measured_again(study_copy: Study, run_here: Run) -> None:
    (calibration,) = (study_copy.outputs / "cache").glob("alignment-*.safetensors")
    whole = calibration.read_bytes()
    calibration.write_bytes(whole[:-9])
    again = run_here("method=goc", "cache_ratio=0.6", *STUDY, "metrics=[]")
    assert "is damaged" in again.stderr
    assert "made again" in again.stderr
    assert calibration.read_bytes() == whole


def test_a_published_smoothcache_file_for_another_model_is_one_line(run_here: Run, tmp_path: Path) -> None:
    rows = {f"{branch}-{block}": [1, 0, 1, 0, 1] for branch in ("attn", "mlp") for block in range(28)}
    (tmp_path / "s.json").write_text(json.dumps(rows))
    line = error_line(run_here, "method=smoothcache", "schedule.path=s.json")
    assert "schedule.path=s.json: has 56 rows; must be attn and mlp, or attn-0 .. mlp-11" in line
    (tmp_path / "s.json").write_text(json.dumps({"attn": [1, 0, 1], "mlp": [1, 1, 0]}))
    line = error_line(run_here, "method=smoothcache", "schedule.path=s.json")
    assert "schedule.path=s.json: is for 3 steps, not for steps=5" in line


FEW = ("num_samples=8", "calibration_samples=8", "metrics=[]", "latency_repeats=0", "converged_samples=0",
       "inflection_threshold=null")  # fmt: skip


def test_a_schedule_that_makes_the_queue_diverge_is_announced_and_it_is_told_by_its_distance(run_here: Run) -> None:
    warned = run_here("cache_ratio=0.75", *FEW).stderr
    assert "amplifies its own errors up to 108 times" in warned
    assert "predictor=taylor" in warned
    last = run_here("cache_ratio=0.8", *FEW).stderr.splitlines()[-1]
    assert "relative L2 to the uncached samples is" in last
    assert "the gradient queue diverged; try method=goc_anchored (predictor.gradients=computed), smaller" in last


@pytest.mark.parametrize(
    ("choice", "growth"),
    [
        # SmoothCache caches early steps, in which gradients mislead; its runs are too short to amplify errors
        (["method=smoothcache_goc", "steps=5", "cache_ratio=0.5", "++inflection_threshold=0"], "1"),
        (["method=goc", "steps=5", "cache_ratio=0.6"], "3"),
    ],
)
def test_a_large_distance_is_not_called_divergence_where_errors_do_not_grow(
    run_here: Run, choice: list[str], growth: str
) -> None:
    warned = run_here(*FEW, "num_samples=32", "calibration_samples=32", *choice).stderr
    assert "relative L2 to the uncached samples is" in warned
    assert f"though errors grow at most {growth} times: these steps are too far apart" in warned
    assert "diverge" not in warned
    assert "relative L2" not in run_here(*FEW, "num_samples=32", *choice, "predictor=reuse").stderr


def test_a_diverging_gradient_queue_says_where_and_what_to_do(run_here: Run) -> None:
    finished = run_here(*FEW, "steps=40", "cache_ratio=0.9", "gradient_weights=[60]", check=False)
    assert finished.returncode == 1
    error = finished.stderr.splitlines()[-1]
    for said in ("not finite after step", "method goc", "smaller gradient_weights"):
        assert said in error
    assert "Traceback" not in finished.stderr


def test_help_and_errors_in_the_settings_load_no_torch_and_help_shows_the_knobs_first(tmp_path: Path) -> None:
    lines = [["--help"], ["cach_ratio=0.5"], ["cache_ratio=1.5"]]
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)]
    finished = subprocess.run(command, cwd=tmp_path, env=run_environment(), capture_output=True, text=True, check=False)
    ended = [line for line in finished.stdout.splitlines() if line.startswith("ended")]
    assert ended == ["ended 0", "ended 1", "ended 1"], finished.stderr
    assert [line.partition(":")[0] for line in finished.stderr.splitlines()] == ["error", "error"]
    text = finished.stdout
    assert text.index("cache_ratio ") < text.index("batch_size ") < text.index("== Groups")
    assert "share of branch features to reuse" in text
    assert "method: barycache, budcache, chebbooster, " in text
    assert "easycache, first_block, foca, fora, fora_goc, front, goc, goc_anchored" in text


def test_tab_completes_options(tmp_path: Path) -> None:
    """As the shell does it; README says how to switch it on."""

    environment = {**os.environ, "COMP_LINE": "python run.py method=goc", "COMP_POINT": "24"}
    query = [sys.executable, str(REPOSITORY / "run.py"), "-sc", "query=bash"]
    listed = subprocess.run(query, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert {"method=goc", "method=goc_logsnr", "method=goc_stack"} <= set(listed.stdout.split())


def test_settings_are_completed_as_options_are(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "python run.py cache_r")
    monkeypatch.setenv("COMP_POINT", "21")
    assert run_here("-sc", "query=bash").stdout.split() == ["cache_ratio="]


def test_a_result_of_another_shape_is_damaged(study_copy: Study, run_here: Run) -> None:
    path, whole = study_copy.run("goc") / "result.json", study_copy.result("goc")
    for content in ('{"a": 1}', "[]", "null", '{"config": {}}', "half"):
        path.write_text(content)
        assert run_command(lambda: report([str(path.parent)])) == 1
    run_here("method=goc", "cache_ratio=0.4", *STUDY)
    assert study_copy.result("goc")["metrics"] == whole["metrics"]


def test_a_name_that_leads_out_of_outputs_writes_nothing(run_here: Run, tmp_path: Path) -> None:
    for name in ("../../x", "../x"):
        for multirun in ([], ["-m"]):
            (tmp_path / "here").mkdir(exist_ok=True)
            finished = run_here(*multirun, f"name={name}", *SMALL, check=False)
            assert finished.returncode == 1
            (line,) = finished.stderr.splitlines()
            assert line == f"error: name={name}: must be the name of a folder below outputs/, without .."
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]
    assert not (tmp_path.parent / "x").exists()


def test_a_folder_that_cannot_be_made_is_one_line(run_here: Run) -> None:
    line = error_line(run_here, "hydra.run.dir=/proc/x")
    assert line == "error: /proc/x: cannot be made, read or written (No such file or directory)"
    finished = run_here("-m", "hydra.sweep.dir=/proc/x", *SMALL, check=False)
    assert finished.returncode == 1
    assert "error: /proc/x" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


FULL_AFTER = """
import resource, runpy, sys
limit, sys.argv = int(sys.argv[1]), sys.argv[2:]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # no file may grow beyond it, as on a disk that is full
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("setting", "file"), [("save_images=none", "samples.png"), ("save_images=npz", "images.npz")])
@pytest.mark.nightly
def test_a_full_disk_names_the_picture_and_how_to_go_on(run_here: Run, tmp_path: Path, setting: str, file: str) -> None:
    settings = [*SMALL, "num_samples=400", "batch_size=4", "method=none", "metrics=[isc]", "latency_repeats=0", setting]
    limit = 6_000 if file == "samples.png" else 12_000
    command = [sys.executable, "-c", FULL_AFTER, str(limit), str(REPOSITORY / "run.py"), *settings]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=run_environment(), check=False)
    assert refused.returncode == 1
    line = refused.stderr.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'outputs' / 'runs' / 'none-ddim5-'}")
    assert f"/{file}: could not be written (File too large); the finished shards are kept: make room" in line
    assert "Traceback" not in refused.stderr
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    assert len(shards) == 100
    run_here(*settings)
    assert shards == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    assert only_result(tmp_path)["metrics"]["is"] > 0


def test_two_runs_are_compared_in_pairs_with_the_samples_that_differ_most(
    study_copy: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = study_copy.run("goc"), study_copy.run("none")
    assert compare([str(first), str(second), "--out", str(tmp_path)]) == 0
    shown = capfd.readouterr().out
    (fid,) = [line.split() for line in shown.splitlines() if line.split()[:1] == ["fid"]]
    difference = study_copy.result("goc")["metrics"]["fid"] - study_copy.result("none")["metrics"]["fid"]
    assert float(fid[3].split("(")[0]) == pytest.approx(difference, rel=0.02)
    assert contrast(tmp_path / "compare.png") > 10
    named = shown.splitlines()[-1].split("): ")[1].split(";")[0].split(", ")
    assert len({int(index) for index in named}) == 8

    result = study_copy.result("reuse")
    for key, value, why in (
        ("cfg_scale", 1.5, "of different measurements, which must not be compared: cfg_scale=1.0 and 1.5"),
        ("seed", 1, "have no seeds in common (seed=0 and 1)"),
    ):
        other = {part: {**result[part], key: value} for part in ("config", "measurement")}
        (study_copy.run("reuse") / "result.json").write_text(json.dumps(result | other))
        assert run_command(partial(compare, [str(first), str(study_copy.run("reuse"))])) == 1
        assert why in capfd.readouterr().err
    assert run_command(partial(compare, [str(first), "nowhere"])) == 1
    assert "nowhere: holds no finished run" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "damaged", "of another N"])
def test_an_influence_file_is_made_again_from_the_shards(study_copy: Study, run_here: Run, damage: str) -> None:
    path = study_copy.run("goc") / "influence.safetensors"
    whole, arrays = path.read_bytes(), load_file(path)
    assert arrays["fid"].shape == arrays["is"].shape == arrays["relative_l2"].shape == (24,)
    path.unlink()
    if damage == "damaged":
        path.write_bytes(whole[:-3])
    elif damage == "of another N":
        save_file({"fid": arrays["fid"][:7]}, path)
    again = run_here("method=goc", "cache_ratio=0.4", *STUDY)
    assert "made again" in again.stderr
    assert "img/s" not in again.stderr
    assert path.read_bytes() == whole


def test_the_distance_to_the_converged_solution_is_shared_by_the_ways_of_a_measurement(
    run_here: Run, tmp_path: Path
) -> None:
    quick = (*QUICK, "num_samples=4", "batch_size=4", "converged_samples=4", "metrics=[isc]")
    few = run_here(*quick, "method=none", "steps=5", "hydra.run.dir=few")
    many = run_here(*quick, "method=none", "steps=40", "hydra.run.dir=many")
    assert "converged solution" in few.stderr
    assert "converged solution" not in many.stderr
    distances = [json.loads((tmp_path / name / "result.json").read_text())["converged"] for name in ("few", "many")]
    assert distances[0]["samples"] == distances[1]["samples"] == 4
    assert distances[0]["accuracy"] == distances[1]["accuracy"] < 0.05 * distances[1]["mean"]
    assert distances[1]["mean"] < 0.25 * distances[0]["mean"]  # an eighth of the step, for a method of first order
    assert len(load_file(tmp_path / "few" / "influence.safetensors")["converged"]) == 4
    line = error_line(run_here, "sampler=ddpm", "converged_samples=4")
    assert "converged_samples=4: must be 0 or null with sampler=ddpm" in line
