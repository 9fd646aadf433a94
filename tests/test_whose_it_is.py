"""Files say whose they are: one that was copied over another's name, or damaged, is noticed, and made again."""

import contextlib
import json
import logging
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.reports import result_of
from safetensors.torch import load_file, save_file

from goc.config import Measurement, ModelConfig, compose_config
from goc.config.settings import SHAPE
from goc.metrics.features import load_extractor
from goc.metrics.reference import load_reference, save_reference
from goc.report.measurement import describe_measurement
from goc.report.pairs import difference, points_of
from goc.report.results import INFLUENCE_FILE, measurement_of, read_influence, run_key, write_influence
from goc.sampling.images import write_pngs
from goc.sampling.search import _known
from goc.sampling.shards import SampleSet
from goc.sampling.shared import shared_path, shared_tensors
from goc.sampling.training import progress_of
from goc.system.errors import GocError


def damage(path: Path) -> None:
    """Change the last byte, which is of a tensor."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def kept(folder: Path, value: float) -> float:
    """What is shared by all that depends on a value: the value itself."""
    made = shared_tensors(folder, "kind", {"value": value}, {"x"}, lambda: {"x": torch.full((3,), value)})
    return made["x"][0].item()


@pytest.mark.parametrize("how", ["copied", "damaged"])
def test_what_several_runs_share_is_made_again_where_it_is_another_one(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [kept(tmp_path, value) for value in (1.0, 2.0)] == [1.0, 2.0]
    one, two = (shared_path(tmp_path, "kind", {"value": v}).with_suffix(".safetensors") for v in (1.0, 2.0))
    whole = two.read_bytes()
    shutil.copy(one, two) if how == "copied" else damage(two)
    with caplog.at_level(logging.WARNING):
        assert kept(tmp_path, 2.0) == 2.0
    why = "of something else than its name says" if how == "copied" else "damaged"
    assert [record.getMessage() for record in caplog.records] == [f"{two} is {why}: it is made again"]
    assert two.read_bytes() == whole


def test_what_an_older_version_kept_is_read_if_its_key_is_right(tmp_path: Path) -> None:
    path = shared_path(tmp_path, "kind", {"value": 1.0}).with_suffix(".safetensors")
    for key, expected in (({"value": 1.0}, 5.0), ({"value": 2.0}, 1.0)):
        save_file({"x": torch.full((3,), 5.0)}, path, metadata={"key": json.dumps(key)})
        assert kept(tmp_path, 1.0) == expected


def test_distances_of_another_search_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    path.write_text(json.dumps({"key": {"seed": 1}, "distances": {"0,3": 0.5}}))
    assert _known(path, {"seed": 1}) == {"0,3": 0.5}
    assert _known(path, {"seed": 2}) == {}


def test_a_training_does_not_go_on_from_another_one(tmp_path: Path) -> None:
    def train(seed: int, iterations: int) -> list[float]:
        parameter = torch.nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.Adam([parameter])
        random = torch.Generator().manual_seed(seed)
        with contextlib.suppress(ZeroDivisionError), progress_of(tmp_path, {"seed": seed}) as progress:
            losses = progress.resume(parameter, optimizer, random)
            for _ in range(iterations):
                parameter.grad = torch.ones(2)
                optimizer.step()
                losses.append(float(seed))
                progress.keep(parameter, optimizer, random, losses)
            raise ZeroDivisionError  # stopped
        return losses

    assert train(1, 2) == [1.0, 1.0]
    assert train(1, 1) == [1.0, 1.0, 1.0]
    assert train(2, 1) == [2.0]
    one, two = sorted(tmp_path.glob("training-*.safetensors"), key=lambda path: len(load_file(path)["losses"]))[::-1]
    shutil.copy(one, two)
    assert train(2, 1) == [2.0]
    damage(one)
    assert train(1, 1) == [1.0]


def test_a_shard_of_other_samples_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = SampleSet(tmp_path, 8, 4, "run")
    for indices in samples.shards:
        samples.write(indices, {"x": torch.full((4,), float(indices.start))}, {})
    first, second = map(samples.path, samples.shards)
    shutil.copy(first, second)
    assert not samples.finished(samples.shards[1])
    assert "is damaged (it is of samples 0 to 3): it is made again" in caplog.text
    assert not second.exists()
    assert samples.finished(samples.shards[0])


def test_features_of_other_images_are_extracted_again(tmp_path: Path) -> None:
    extractor = load_extractor("digits", None, torch.device("cpu"))
    images = torch.randint(0, 256, (2, 6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    references = []
    for index, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        write_pngs([images[index]], folder)
        references.append(load_reference(folder, extractor, 8, True, tmp_path / f"cache{index}"))
    (one,), (two,) = (list(tmp_path.glob(f"cache{index}/reference-*.safetensors")) for index in (0, 1))
    for spoil in (lambda: shutil.copy(one, two), lambda: damage(two)):
        spoil()
        again = load_reference(tmp_path / "b", extractor, 8, True, tmp_path / "cache1")
        assert np.array_equal(again.mu, references[1].mu)
    saved = tmp_path / "saved.safetensors"
    save_reference(saved, references[0])
    damage(saved)
    with pytest.raises(GocError, match=r"saved.safetensors: damaged \(its checksum does not match\)"):
        load_reference(saved, extractor, 8, True, None)


def test_influences_of_another_run_are_not_believed(tmp_path: Path) -> None:
    ours, theirs = result_of(3, 20), result_of(4, 20)
    count = ours["config"]["num_samples"]
    write_influence(tmp_path, {"fid": np.arange(count)}, run_key(theirs))
    with pytest.raises(ValueError, match=f"{INFLUENCE_FILE} is of another run"):
        read_influence(tmp_path, ours)
    assert read_influence(tmp_path, theirs)["fid"][3] == 3
    write_influence(tmp_path, {"is": np.arange(count)}, run_key(theirs))
    damage(tmp_path / INFLUENCE_FILE)
    assert np.isnan(read_influence(tmp_path, theirs)["is"]).all()  # as what is not finite: said, and not used
    write_influence(tmp_path, {"fid": np.arange(count)})  # as older versions did
    assert read_influence(tmp_path, ours)["fid"][3] == 3


# what of a measurement is told by a hash of its file, or does not decide a number beyond rounding
TOLD_BY_HASHES = {"vae", "prompts", "checkpoint", "extractor_weights", "reference", "clip", "pipeline"}
DECIDES_NOTHING = {"vae_batch_size", "family", "routers", "schedules", "weights"}  # files of a way are in its identity
OF_WEIGHTS = set(SHAPE) - {"num_heads", "num_classes"}  # a file of another shape is refused


@pytest.mark.parametrize("model", ["digits", "pipeline"])
def test_every_setting_of_a_measurement_is_in_its_description(model: str) -> None:
    settings = [] if model == "digits" else ["model=pipeline", "model.pipeline=x", "prompts=y"]
    measurement = compose_config(settings).measurement
    before = describe_measurement(measurement, {})
    only = {"digits": {"call"}, "pipeline": {*SHAPE, "cfg_channels"}}[model]
    for part, cls in ((measurement, Measurement), (measurement.model, ModelConfig)):
        for name in {f.name for f in fields(cls)} - {"model"} - TOLD_BY_HASHES - DECIDES_NOTHING - OF_WEIGHTS - only:
            was: Any = getattr(part, name)
            other = {"objective": "flow", "call": {"height": 1}}.get(name)
            setattr(part, name, other or (was + 1 if isinstance(was, int | float) else f"other {was}"))
            assert describe_measurement(measurement, {}) != before, name
            setattr(part, name, was)


def test_older_results_are_of_the_same_measurement_as_new_ones() -> None:
    """What weights leave open was in their config alone."""
    new, old = result_of(3, 20), result_of(3, 20)
    for result in (new, old):
        result["config"]["model"] |= {"num_heads": 4, "num_classes": 10}
    new["measurement"] |= {"num_heads": 4, "num_classes": 10}
    assert measurement_of(new) == measurement_of(old)
    old["config"]["model"]["num_heads"] = 8
    assert measurement_of(new) != measurement_of(old)


def test_drifts_over_different_numbers_of_samples_are_not_compared(tmp_path: Path) -> None:
    """A Frechet distance of fewer samples is larger for that alone."""
    runs = []
    for index, count in enumerate((20, 20, 10)):
        result = result_of(3 + 4 * index, 20)
        result["samples"] = {"folder": "samples", "compared": count}
        runs.append((tmp_path / str(index), result))
    one, same, fewer = points_of(runs).values()
    assert difference(one, same, "drift") is not None
    assert difference(one, fewer, "drift") is None
    assert difference(one, fewer, "fid") is not None
