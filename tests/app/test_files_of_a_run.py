"""Whatever file decides a sample or a score is part of a run by its content."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from application import STUDY, Run, Study
from checkout import QUICK, only_result
from PIL import Image
from refusals import assert_refused
from safetensors import safe_open
from safetensors.torch import load_file

import goc.runs.run as experiment
from goc.config import compose_config, run_id
from goc.models.schedules import write_schedule
from goc.runs.run import run
from goc.sampling import converged
from goc.sampling.shards import SampleSet
from goc.system.errors import GocError
from goc.system.files import ASSETS, file_sha256
from goc.system.sealed import KEY, SEAL, sealed

SMALL = (*QUICK, "metrics=[]")  # most are about samples, and not about what is measured of them
SEARCHED = ("method=searched", "schedule.path=schedule.json", *SMALL)


def schedule_file(path: Path, *computed: int) -> None:
    write_schedule(path, 5, computed)


def results(folder: Path) -> list[float]:
    """Distances of all finished runs below a folder, the oldest first."""
    files = sorted(folder.rglob("result.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text())["distance"]["relative_l2"] for path in files]


def test_the_same_command_runs_again_when_the_file_of_its_schedule_changed(run_here: Run, tmp_path: Path) -> None:
    schedule_file(tmp_path / "schedule.json", 0, 1, 3)
    run_here(*SEARCHED)
    schedule_file(tmp_path / "schedule.json", 0, 4)
    run_here(*SEARCHED)
    first, second = results(tmp_path)  # both are kept
    schedule_file(tmp_path / "other.json", 0, 4)
    run_here(*SEARCHED, "schedule.path=other.json", "hydra.run.dir=fresh")
    assert second == only_result(tmp_path / "fresh")["distance"]["relative_l2"] != first
    schedule_file(tmp_path / "schedule.json", 0, 1, 3)
    run_here(*SEARCHED)
    assert len(results(tmp_path / "outputs")) == 2  # the first one is read back


def test_a_stopped_run_does_not_go_on_with_another_file(run_here: Run, tmp_path: Path) -> None:
    schedule_file(tmp_path / "schedule.json", 0, 1, 3)
    run_here(*SEARCHED, "hydra.run.dir=own")
    (tmp_path / "own" / "result.json").unlink()
    (shard, last) = sorted((tmp_path / "own" / "samples").glob("shard-*"))
    last.unlink()
    before = shard.read_bytes()
    schedule_file(tmp_path / "schedule.json", 0, 4)
    finished = run_here(*SEARCHED, "hydra.run.dir=own", check=False)
    assert_refused(finished, r"own: holds a run of another config \(files\.schedule\.path=\w+ there, \w+ here\)")
    (tmp_path / "own" / "run.json").unlink()  # whose folder it is, is not known then, but whose shards is
    finished = run_here(*SEARCHED, "hydra.run.dir=own", check=False)
    assert_refused(finished, "shard-000000-000011.safetensors: of another run, with other weights, another schedule")
    assert shard.read_bytes() == before
    assert not last.exists()


def trained(path: Path, scale: float) -> None:
    """Weights of predictor=learned for five steps of the shipped digits, as goc train weights writes them."""
    computed = (0, 1, 3)
    about = {"model_sha256": file_sha256(ASSETS / "digits" / "diffusion-0.safetensors"), "sampler": "ddim", "steps": 5}
    weights = {"2": [scale, 0.0], "4": [scale, 0.0]}
    write_schedule(path, 5, computed, weights=weights, trained_for={**about, "cfg_scale": 1.0, "site": "branch"})


def test_weights_trained_again_to_the_same_path_are_another_run(run_here: Run, tmp_path: Path) -> None:
    command = ("method=searched_learned", "predictor.path=weights.json", *SMALL)
    trained(tmp_path / "weights.json", 1.0)
    run_here(*command)
    trained(tmp_path / "weights.json", 0.5)
    run_here(*command)
    first, second = results(tmp_path)
    assert second > 2 * first


def smoothcache_file(path: Path, late: int) -> None:
    path.write_text(json.dumps({"attn": [1, 0, 1, late, 1], "mlp": [1, 0, 1, late, 1]}))


def router_file(path: Path, late: int) -> None:
    routers = {f"{r}.prob": torch.full((24,), float(late if r == 1 else -9)) for r in range(5)}
    torch.save({"routers": routers, "opt": {}, "args": None}, path)


@pytest.mark.parametrize(
    ("settings", "setting", "write"),
    [
        (("method=searched", "schedule.path=FILE"), "schedule.path", lambda path, n: schedule_file(path, 0, 1 + n)),
        (("method=dynamic", "schedule.path=FILE"), "schedule.path", lambda path, n: schedule_file(path, 0, 1 + n)),
        (("method=searched", "model.schedules=FILE"), "schedule.path", lambda path, n: schedule_file(path, 0, 1 + n)),
        (("method=smoothcache", "schedule.path=FILE"), "schedule.path", smoothcache_file),
        (("method=l2c", "schedule.router=FILE"), "schedule.router", router_file),
        (("method=l2c", "model.routers=FILE"), "schedule.router", router_file),
        (("method=searched_learned", "predictor.path=FILE"), "predictor.path", lambda path, n: trained(path, 1.0 + n)),
        (("method=searched_learned", "model.weights=FILE"), "predictor.path", lambda path, n: trained(path, 1.0 + n)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_every_file_that_a_method_is_read_from_is_part_of_the_run(
    settings: tuple[str, ...], setting: str, write: Callable[[Path, int], None], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    own = [part.replace("FILE", str(path)) for part in settings]
    write(path, 0)
    before = compose_config([*own, "steps=5"])
    assert before.files[setting] == file_sha256(path)
    write(path, 1)
    after = compose_config([*own, "steps=5"])
    assert after.files[setting] == file_sha256(path) != before.files[setting]
    assert run_id(after) != run_id(before)
    with pytest.raises(GocError, match=r"^(schedule|predictor)\.\w+: its file changed while the run started"):
        run(before, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("shard-*"))


def test_a_method_without_files_has_none() -> None:
    assert compose_config(["method=goc"]).files == {}


def test_shards_of_another_run_are_refused_and_left(tmp_path: Path) -> None:
    indices, tensors = range(4), {"labels": torch.arange(4)}
    SampleSet(tmp_path, 4, 4, "one").write(indices, tensors, {})
    before = SampleSet(tmp_path, 4, 4).path(indices).read_bytes()
    assert SampleSet(tmp_path, 4, 4, "one").finished(indices)
    with pytest.raises(GocError, match="of another run"):
        SampleSet(tmp_path, 4, 4, "other").finished(indices)
    assert SampleSet(tmp_path, 4, 4).path(indices).read_bytes() == before
    SampleSet(tmp_path, 4, 4).write(indices, tensors, {})  # as older versions wrote them
    assert SampleSet(tmp_path, 4, 4, "other").finished(indices)


def test_shards_copied_from_another_method_are_refused(study_copy: Study, run_here: Run) -> None:
    (study_copy.run("goc") / "result.json").unlink()
    shutil.copytree(study_copy.run("reuse") / "samples", study_copy.run("goc") / "samples", dirs_exist_ok=True)
    assert_refused(run_here("method=goc", "cache_ratio=0.4", *STUDY, check=False), "of another run")


def test_a_calibration_that_was_made_anew_and_differs_does_not_join_shards(run_here: Run, tmp_path: Path) -> None:
    """As on another machine, whose rounding tips a threshold the other way."""
    command = ("method=teacache", "cache_ratio=0.4", *SMALL, "hydra.run.dir=own")
    run_here(*command)
    (tmp_path / "own" / "result.json").unlink()
    (changes,) = (tmp_path / "outputs" / "cache").glob("changes-*.safetensors")
    with safe_open(changes, framework="pt") as file:
        key = json.loads(file.metadata()[SEAL])[KEY]
    changes.write_bytes(sealed({name: 1.5 * values for name, values in load_file(changes).items()}, key))
    assert_refused(run_here(*command, check=False), "of another run, .* another calibration")


def test_a_reference_folder_whose_images_changed_is_measured_again(run_here: Run, tmp_path: Path) -> None:
    rng, images = np.random.default_rng(0), tmp_path / "real"
    images.mkdir()

    def draw(brightest: int) -> None:
        for index in range(8):
            pixels = rng.integers(0, brightest, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{index}.png")

    command = (*QUICK, "model.reference=real", "hydra.run.dir=own")
    draw(255)
    run_here(*command)
    first, shards = only_result(tmp_path / "own"), {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    run_here(*command)
    assert only_result(tmp_path / "own") == first  # read back
    draw(20)
    run_here(*command)
    second = only_result(tmp_path / "own")
    assert second["metrics"]["fid"] != pytest.approx(first["metrics"]["fid"], rel=1e-3)
    assert second["measurement"]["reference_sha256"] != first["measurement"]["reference_sha256"]
    assert shards == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}  # nothing generated again


def test_a_checkpoint_that_changes_while_it_is_loaded_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    shutil.copy(ASSETS / "digits" / "diffusion-0.safetensors", checkpoint)
    config = compose_config([f"model.checkpoint={checkpoint}", *SMALL, f"cache_dir={tmp_path / 'cache'}"])
    load = experiment.load

    def swapped(*arguments: Any) -> object:
        shutil.copy(ASSETS / "digits" / "diffusion-1.safetensors", checkpoint)
        return load(*arguments)

    monkeypatch.setattr(experiment, "load", swapped)
    with pytest.raises(GocError, match=r"^model: its file changed while the run started"):
        run(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("shard-*"))


def test_an_older_versions_number_of_16_bit_images_is_not_read_back(run_here: Run, tmp_path: Path) -> None:
    """It clipped them, and knew the folder by names and contents alone."""
    images, names = tmp_path / "real", hashlib.sha256()
    images.mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 8, 8)).astype(np.uint16) * 257):
        Image.fromarray(pixels).save(images / f"{index}.png")
        names.update(f"{index}.png\0{file_sha256(images / f'{index}.png')}\n".encode())
    command = (*QUICK, "model.reference=real", "hydra.run.dir=own")
    run_here(*command)
    right = only_result(tmp_path / "own")
    wrong = json.loads(json.dumps(right))
    wrong["measurement"]["reference_sha256"], wrong["metrics"]["fid"] = names.hexdigest(), 1234.5
    (tmp_path / "own" / "result.json").write_text(json.dumps(wrong))
    run_here(*command)
    assert only_result(tmp_path / "own")["metrics"]["fid"] == right["metrics"]["fid"]


def test_a_perceptual_distance_of_other_weights_is_measured_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result = compose_config(["method=goc", "cache_ratio=0.4", *STUDY]), study.result("goc")
    sources = experiment.sources_of(config.measurement)
    for then, now, same in ((None, None, True), ("a", "a", True), ("a", None, True), ("a", "b", False)):
        monkeypatch.setattr(experiment, "lpips_sha256", lambda now=now: now)
        assert experiment.is_result_of({**result, "lpips_sha256": then}, config, sources) == same

    def read() -> str:
        raise AssertionError("LPIPS's weights were read for a result without LPIPS")

    monkeypatch.setattr(experiment, "lpips_sha256", read)
    assert experiment.is_result_of(result, config, sources)


def test_one_checkpoint_run_with_another_number_of_classes_shares_no_samples(
    run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are drawn from them; a table of 11 rows is one of 10 classes and the null one, or of 11 without it."""
    monkeypatch.setattr(converged, "INTERVALS", 8)
    small = ("method=none", *QUICK, "num_samples=8", "batch_size=8", "converged_samples=8")
    run_here(*small, "model.num_classes=11", "hydra.run.dir=eleven")
    run_here(*small, "hydra.run.dir=ten")
    run_here(*small, "hydra.run.dir=alone", "cache_dir=fresh")
    eleven, ten, alone = (only_result(tmp_path / name) for name in ("eleven", "ten", "alone"))
    assert ten["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)
    assert ten["converged"]["mean"] == pytest.approx(alone["converged"]["mean"], rel=1e-5)
    assert eleven["metrics"]["fid"] != pytest.approx(ten["metrics"]["fid"], rel=1e-3)
