"""Files say whose they are: one that was copied over another's name, or damaged, is noticed, and made again."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.reports import result_of

from goc.config import Measurement, ModelConfig, compose_config
from goc.config.settings import OF_SECOND, SHAPE
from goc.report.measurement import describe_measurement
from goc.report.pairs import difference, points_of
from goc.report.results import INFLUENCE_FILE, Influence, measurement_of, run_key, write_influence


def damage(path: Path) -> None:
    """Change the last byte, which is of a tensor."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_influences_of_another_run_are_not_believed(tmp_path: Path) -> None:
    ours, theirs = result_of(3, 20), result_of(4, 20)
    count = ours["config"]["num_samples"]
    write_influence(tmp_path, {"fid": np.arange(count)}, run_key(theirs))
    with pytest.raises(ValueError, match=f"{INFLUENCE_FILE} is of another run"):
        Influence(tmp_path, ours)
    assert Influence(tmp_path, theirs)["fid"][3] == 3
    write_influence(tmp_path, {"is": np.arange(count)}, run_key(theirs))
    damage(tmp_path / INFLUENCE_FILE)
    assert np.isnan(Influence(tmp_path, theirs)["is"]).all()  # as what is not finite: said, and not used
    write_influence(tmp_path, {"fid": np.arange(count)})  # as older versions did
    assert Influence(tmp_path, ours)["fid"][3] == 3


# what of a measurement is told by a hash of its file, or does not decide a number beyond rounding
TOLD_BY_HASHES = {
    "vae", "prompts", "checkpoint", "extractor_weights", "reference", "clip", "blip", "pipeline", *OF_SECOND,
}  # fmt: skip
# files of a way are in its identity
DECIDES_NOTHING = {"vae_batch_size", "family", "routers", "schedules", "weights", "fronts"}
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
            other = {"objective": "flow", "call": {"height": 1}, "network": "goc.models.dit:DiT"}.get(name)
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
