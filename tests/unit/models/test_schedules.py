"""Files of schedules and weights: what is read is what was written, and what does not fit is one line."""

import json
import re
from pathlib import Path

import pytest
import torch
from closeness import assert_near

from goc.models.plans import plan_sha256, read_plan
from goc.models.schedules import Trained, read_schedule, read_weights, rows_of, shifts_of, write_schedule
from goc.system.errors import ConfigError

FOR = {"site": "branch", "model_sha256": "ab", "sampler": "ddim", "steps": 5, "cfg_scale": 1.0}
COMPUTED = (0, 1, 3)

SHA256_WHEN_IT_WAS_A_FILE = "7de9b308083864b968ea88f5348060dc1f73044ef46bffd6d68143903ce43b12"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weights = torch.zeros(5, 2)
    weights[2], weights[4] = torch.tensor([2.0, -1.0]), torch.tensor([1.5, -0.5])
    file = tmp_path / "weights.json"
    write_schedule(file, 5, COMPUTED, trained_for=FOR, weights=rows_of(weights, COMPUTED))
    return file


def test_weights_and_their_schedule_come_back(path: Path) -> None:
    assert read_schedule(str(path), 5) == COMPUTED
    weights, shifts = read_weights(str(path), FOR, COMPUTED, 5)
    assert shifts is None
    assert weights.tolist() == [[0, 0], [0, 0], [2.0, -1.0], [0, 0], [1.5, -0.5]]


def test_weights_of_each_cell_and_shifts_come_back(tmp_path: Path) -> None:
    weights = torch.zeros(5, 3, 2, 2)
    weights[[2, 4]] = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    shifts = torch.tensor([0, 0.25, 0, -0.5, 0], dtype=torch.float64)
    file = tmp_path / "weights.json"
    rows, moved = rows_of(weights, COMPUTED), shifts_of(shifts, COMPUTED)
    write_schedule(file, 5, COMPUTED, trained_for=FOR, weights=rows, shifts=moved)
    trained = read_weights(str(file), FOR, COMPUTED, 5, (3, 2))
    assert torch.allclose(trained.weights, weights, atol=1e-6)
    assert trained.shifts is not None
    assert torch.equal(trained.shifts, shifts)
    assert_near(trained.times([999, 800, 600, 300, 0]), torch.tensor([999.0, 750, 600, 450, 0], dtype=torch.float64))
    assert Trained(weights).times([999, 800, 600, 300, 0]) is None
    ends = Trained(weights, torch.tensor([0, -1.0, 0, 1.0, 0], dtype=torch.float64)).times([999, 900, 600, 300, 0])
    assert_near(ends, torch.tensor([999.0, 999, 600, 0, 0], dtype=torch.float64))  # not above the noise's time
    with pytest.raises(ConfigError, match=r"has weights of 3 x 2 cells, not of 12 x 2"):
        read_weights(str(file), FOR, COMPUTED, 5, (12, 2))
    ragged = {**rows, "4": [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0]], [[1.0, 0.0], [1.0, 0.0]]]}
    for change, message in (
        ({"weights": {**rows, "4": [1.0, 0.0]}}, "must have as many weights for each cached step"),
        ({"weights": ragged}, "the weights of step 4 must be numbers"),
        ({"weights": {step: [[[[1.0]]]] for step in "24"}}, "must have as many weights"),
        ({"shifts": {"1": 1.5}}, "its shifts must be numbers in [-1, 1], of computed steps"),
        ({"shifts": {"1": True}}, "its shifts must be"),
        ({"shifts": {"2": 0.5}}, "its shifts must be"),
        ({"shifts": [0.5]}, "its shifts must be"),
        ({"shifts": {"0": 0.5}}, "must have no shift of the first and of the last evaluation"),
    ):
        file.write_text(json.dumps({**json.loads(file.read_text()), "weights": rows, "shifts": moved, **change}))
        with pytest.raises(ConfigError, match=re.escape(message)):
            read_weights(str(file), FOR, COMPUTED, 5, (3, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_sha256", "cd"), ("sampler", "euler"), ("steps", 6), ("cfg_scale", 1.5), ("site", "stack")],
)
def test_weights_for_something_else_are_refused_by_name(path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"was trained for {key}={FOR[key]}, not for {value}"):
        read_weights(str(path), {**FOR, key: value}, COMPUTED, 5)


def test_weights_for_another_schedule_and_schedules_for_other_steps_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"was trained for the schedule 0,1,3, not for 0,2,3"):
        read_weights(str(path), FOR, (0, 2, 3), 5)
    with pytest.raises(ConfigError, match=r"is for 5 evaluations, not for 20"):
        read_schedule(str(path), 20)


@pytest.mark.parametrize(
    "change",
    [{"computed": [1, 3]}, {"computed": [0, 3, 3]}, {"computed": [0, 5]}, {"computed": "0,1"}, {"evaluations": None}],
)
def test_what_is_no_schedule_is_refused(path: Path, change: dict) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=r"computed must be increasing steps from 0 on"):
        read_schedule(str(path), 5)


def test_damaged_and_missing_files_are_one_line(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.path=.*: no such file; schedule=searched finds"):
        read_schedule(str(tmp_path / "none.json"), 5)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ConfigError, match=r"not a schedule's JSON"):
        read_schedule(str(path), 5)
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"must have evaluations and computed"):
        read_schedule(str(path), 5)


def test_a_schedule_without_weights_and_weights_with_a_row_missing_are_refused(path: Path, tmp_path: Path) -> None:
    bare = tmp_path / "schedule.json"
    write_schedule(bare, 5, COMPUTED)
    with pytest.raises(ConfigError, match=r"has no weights, only a schedule"):
        read_weights(str(bare), FOR, COMPUTED, 5)
    content = json.loads(path.read_text())
    del content["weights"]["4"]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"as many weights for each cached step"):
        read_weights(str(path), FOR, COMPUTED, 5)


def test_a_shipped_plan_is_an_entry_of_its_models_file_with_the_text_of_a_file_of_its_own(tmp_path: Path) -> None:
    """Its SHA-256 is in the identity of runs, which stay what they were when each plan was a file."""
    path = "asset:digits/plans/digits-1-ddim20-5-cfg1.json"
    content = read_plan(path)
    write_schedule(tmp_path / "own.json", content.pop("evaluations"), tuple(content.pop("computed")), **content)
    assert plan_sha256(path) == plan_sha256(str(tmp_path / "own.json")) == SHA256_WHEN_IT_WAS_A_FILE
    assert read_plan(path) == read_plan(str(tmp_path / "own.json"))
    for missing in ("asset:digits/plans/digits-ddim20-99.json", "asset:digits/plans/none-ddim20-5.json"):
        assert plan_sha256(missing) is None
        with pytest.raises(FileNotFoundError):
            read_plan(missing)
