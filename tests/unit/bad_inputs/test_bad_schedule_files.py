"""Damaged or made-up files of schedules, weights, routers and plans, and features that are nothing: one line each."""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from goc.caching.calibration import ErrorRecorder, InputChangeRecorder, MagnitudeRecorder, ProductRecorder
from goc.caching.decision import relative, relative_change
from goc.caching.dynamic import extrapolation_errors
from goc.caching.expansion import HiCache, Taylor
from goc.caching.schedule import cached_steps_of, smoothcache, smoothcache_from_errors, uniform
from goc.caching.stability import amplification
from goc.methods.closest import closest_threshold
from goc.models.routers import load_router
from goc.models.schedules import read_schedule, read_weights
from goc.models.seen import Seen
from goc.pipelines.fingerprint import MadeFor
from goc.pipelines.method import way_of
from goc.pipelines.plan_file import PipelinePlan, PlanError, load_plan
from goc.system.errors import ConfigError, GocError
from goc.system.files import read_json

FOR = {"steps": 5}
COMPUTED = (0, 1, 3)
DEEP = "[" * 100_000


def assert_one_line(error: BaseException, path: Path) -> None:
    assert "\n" not in str(error)
    assert str(path) in str(error)


# of {"evaluations": 5, "computed": [0, 1, 3], ...}: what takes a part's place
SCHEDULES: dict[str, dict[str, Any]] = {
    "unsorted": {"computed": [0, 3, 1]},
    "repeated": {"computed": [0, 1, 1, 3]},
    "a truth": {"computed": [0, True, 3]},
    "a fraction": {"computed": [0, 1.0, 3]},
    "words": {"computed": ["0", "1"]},
    "null": {"computed": None},
    "nothing computed": {"computed": []},
    "nested": {"computed": [[0], [1]]},
    "negative": {"computed": [0, -1]},
    "true evaluations": {"evaluations": True, "computed": [0]},
    "evaluations beyond all measure": {"evaluations": 10**12},
    "evaluations below": {"evaluations": 0},
    "a number as a word": {"evaluations": "5"},
}
ROWS: dict[str, Any] = {
    "a word": "abc",
    "null": None,
    "nested": [[1]],
    "empty": [],
    "true": True,
    "a truth in it": [True, 0.0],
    "a word in it": ["1", 0.0],
    "longer than the others": [0.5] * 500,
    "not a number": [float("nan"), 0.0],
    "infinite": [float("inf"), 0.0],
    "beyond float32": [1e300, 0.0],
    "an integer of 400 digits": [10**400, 0],
    "a mapping": {"0": 1.0},
}


def weights_file(path: Path, **change: Any) -> Path:
    content = {"evaluations": 5, "computed": list(COMPUTED), "weights": {"2": [2.0, -1.0], "4": [1.5, -0.5]}}
    path.write_text(json.dumps({**content, "trained_for": FOR, **change}))
    return path


@pytest.mark.parametrize("change", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_bad_schedule_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    path = weights_file(tmp_path / "schedule.json", **change)
    for read in (lambda: read_schedule(str(path), 5), lambda: read_weights(str(path), FOR, COMPUTED, 5)):
        with pytest.raises(ConfigError) as refused:
            read()
        assert_one_line(refused.value, path)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_of_weights_is_one_line(row: Any, tmp_path: Path) -> None:
    path = weights_file(tmp_path / "weights.json", weights={"2": [2.0, -1.0], "4": row})
    with pytest.raises(ConfigError) as refused:
        read_weights(str(path), FOR, COMPUTED, 5)
    assert_one_line(refused.value, path)


@pytest.mark.parametrize(
    "weights",
    [
        {step: [0.1] * 500 for step in ("2", "4")},  # on features that are not there
        {"2": [1.0, 0.0, 0.5], "4": [1.0, 0.0, 0.5]},  # on a third one, where two are computed
        {"two": [1.0], "4": [1.0]},
        {"02": [1.0], "4": [1.0]},
        {"2": [1.0], "4": [1.0], "5": [1.0]},
        {},
        [],
    ],
)
def test_weights_for_other_steps_or_features_are_refused(weights: Any, tmp_path: Path) -> None:
    path = weights_file(tmp_path / "weights.json", weights=weights)
    with pytest.raises(ConfigError) as refused:
        read_weights(str(path), FOR, COMPUTED, 5)
    assert_one_line(refused.value, path)


def test_weights_behind_the_last_computed_feature_may_be_zero(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "weights.json", weights={"2": [1, 0.0, 0.0], "4": [1, 0.5, 0.25]})
    assert read_weights(str(path), FOR, COMPUTED, 5).weights.tolist()[4] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    "text", ["", "{", DEEP, '{"a":' * 50_000, "[]", "null", "5", '"computed evaluations"', "\ufeff{}",
             '{"evaluations": 5, "computed": [0], "computed": [0, 1]}'],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_text_that_is_no_schedule_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_schedule(str(path), 5)
    assert_one_line(refused.value, path)


@pytest.mark.parametrize("path", ["/dev/zero", "/", "a\0b"])
def test_what_is_no_file_is_not_read(path: str) -> None:
    with pytest.raises(ConfigError, match="not a schedule's JSON"):
        read_schedule(path, 5)
    with pytest.raises((ValueError, OSError)):
        read_json(Path(path))


PUBLISHED: dict[str, Any] = {
    "a list": [[1, 0]],
    "a word": "attn mlp",
    "words": {"attn": "10", "mlp": "10"},
    "null": {"attn": None, "mlp": [1, 0]},
    "empty": {"attn": [], "mlp": []},
    "nested": {"attn": [[1], [0]], "mlp": [[1], [0]]},
    "truths": {"attn": [True, False], "mlp": [True, False]},
    "other numbers": {"attn": [1, 0.5], "mlp": [1, 0]},
    "unequal": {"attn": [1, 0, 1], "mlp": [1, 0]},
    "mappings": {"attn": {"0": 1}, "mlp": {"0": 1}},
}


@pytest.mark.parametrize("rows", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_a_published_schedule_is_rows_of_0_and_1(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"has|must be") as refused:
        smoothcache(rows, depth=2)
    assert "\n" not in str(refused.value)


ROUTERS: dict[str, Any] = {
    "names": {"x.prob": torch.zeros(4), "1.prob": torch.zeros(4)},
    "a name twice": {"0.prob": torch.zeros(4), "00.prob": torch.zeros(4), "1.prob": torch.zeros(4)},
    "with and without": {"0.prob": torch.zeros(4), "0": torch.zeros(4), "1.prob": torch.zeros(4)},
    "numbers as names": {0: torch.zeros(4), 1: torch.zeros(4)},
    "not a number": {"0.prob": torch.full((4,), torch.nan), "1.prob": torch.zeros(4)},
    "infinite": {"0.prob": torch.zeros(4), "1.prob": torch.full((4,), torch.inf)},
    "a number": {"0.prob": torch.tensor(1.0), "1.prob": torch.tensor(1.0)},
    "words": {"0.prob": "abcd", "1.prob": "abcd"},
    "null": {"0.prob": None, "1.prob": None},
    "integers": {"0.prob": torch.zeros(4, dtype=torch.long), "1.prob": torch.zeros(4, dtype=torch.long)},
    "a list": [torch.zeros(4), torch.zeros(4)],
    "nothing": {},
    "another step": {"0.prob": torch.zeros(4), "2.prob": torch.zeros(4)},
    "another depth": {"0.prob": torch.zeros(6), "1.prob": torch.zeros(6)},
}


@pytest.mark.parametrize("routers", ROUTERS.values(), ids=ROUTERS.keys())
def test_a_bad_router_is_one_line(routers: Any, tmp_path: Path) -> None:
    path = tmp_path / "router.pt"
    torch.save({"routers": routers, "opt": {}, "args": argparse.Namespace()}, path)
    with pytest.raises(GocError) as refused:
        load_router(path, steps=2, depth=2)
    assert_one_line(refused.value, path)


CELLS = {"shape": [5, 2, 2], "steps": ["0000", "0000", "1111", "0000", "1111"]}


def plan_content(tmp_path: Path) -> dict[str, Any]:
    mask = torch.zeros(5, 2, 2, dtype=torch.bool)
    mask[[2, 4]] = True
    plan = PipelinePlan("goc", 0.4, {}, MadeFor("T", "c", "w", "S"), 5, mask, mask, None, (None, None, 0.5, 1.0, -1.0))
    plan.save(tmp_path / "plan.json")
    return json.loads((tmp_path / "plan.json").read_text())


PLANS: dict[str, dict[str, Any]] = {
    "a shape beyond all measure": {"mask": {**CELLS, "shape": [10**12, 3, 2]}},
    "blocks beyond all measure": {"mask": {**CELLS, "shape": [5, 10**12, 2]}},
    "a shape of two": {"mask": {**CELLS, "shape": [5, 4]}},
    "a shape of words": {"mask": {**CELLS, "shape": "555"}},
    "a negative shape": {"mask": {**CELLS, "shape": [5, -2, -2]}},
    "other cells": {"mask": {**CELLS, "steps": ["0000", "0000", "11x1", "0000", "1111"]}},
    "an unequal row": {"mask": {**CELLS, "steps": ["0000", "0000", "11", "0000", "1111"]}},
    "rows that are numbers": {"mask": {**CELLS, "steps": [0, 0, 1111, 0, 1111]}},
    "step 0 cached": {"mask": {**CELLS, "steps": ["1111", "0000", "1111", "0000", "1111"]}},
    "no mask": {"mask": None},
    "corrections of other steps": {"correct": {"shape": [1, 2, 2], "steps": ["0000"]}},
    "other steps": {"steps": 6},
    "steps that are a truth": {"steps": True},
    "steps that are a word": {"steps": "5"},
    "a ratio of 7": {"cache_ratio": 7},
    "a ratio that is none": {"cache_ratio": float("nan")},
    "a ratio that is a word": {"cache_ratio": "half"},
    "a threshold that is none": {"skip_threshold": float("nan")},
    "a threshold below 0": {"skip_threshold": -1.0},
    "a threshold that is a word": {"skip_threshold": "low"},
    "alignments of other steps": {"alignment": [0.5]},
    "alignments that are words": {"alignment": ["a"] * 5},
    "an unknown method": {"method": "gok"},
    "a method elsewhere": {"method": "../smoke"},
    "a method that is a list": {"method": ["goc"]},
    "settings that are none": {"settings": {"foo": 1}},
    "settings of another kind": {"settings": {"gradient_weights": "abc"}},
    "settings that are a list": {"settings": []},
    "made for nothing": {"made_for": {}},
    "made for numbers": {"made_for": {"transformer": 1, "config": 2, "weights": 3, "scheduler": 4}},
    "blocks that are a number": {"blocks": 5},
    "branches that are a list": {"branches": ["attn"]},
    "another version": {"goc_plan": 2},
    "something else beside": {"more": 1},
}


@pytest.mark.parametrize("change", PLANS.values(), ids=PLANS.keys())
def test_a_bad_plan_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan_content(tmp_path), **change}))
    with pytest.raises(PlanError, match=r"is no plan of goc\.calibrate") as refused:
        load_plan(path)
    assert_one_line(refused.value, path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", DEEP, '{"goc_plan": 1}', '{"goc_plan": 9}'], ids=lambda text: text[:15]
)
def test_a_text_that_is_no_plan_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=r"is no plan of goc\.calibrate") as refused:
        load_plan(path)
    assert_one_line(refused.value, path)


def test_a_plan_that_is_one_is_read_as_it_was(tmp_path: Path) -> None:
    content = plan_content(tmp_path)
    plan = load_plan(tmp_path / "plan.json")
    again = copy.copy(plan)
    again.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == content
    assert plan.alignment == (None, None, 0.5, 1.0, -1.0)


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("taylorseer", {"order": "abc"}, "order=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("taylorseer", {"order": None}, "order=None: "),
        ("goc", {"gradient_weights": 5}, "gradient_weights=5: "),
        ("goc", {"gradient_weights": [1e30]}, r"gradient_weights=\[1e\+30\]: must be finite numbers of at most"),
        ("goc", {"site": 5}, "site=5: must be one of branch, stack"),
        ("magcache", {"retention": "abc"}, "retention=abc: "),
    ],
)
def test_a_pipelines_settings_are_of_their_kind(method: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        way_of(method, 0.5, 10, settings)


def test_a_pipelines_settings_may_be_numpys_and_torchs() -> None:
    ratio: Any = torch.tensor(0.5)
    way = way_of("goc", ratio, 10, {"gradient_weights": (torch.tensor(1.5).numpy(), 1)})
    assert (way.cache_ratio, way.gradient_weights) == (0.5, [1.5, 1.0])


# of a model whose features are all one number: nothing changes, and nothing is divided by nothing
def recorded(recorder: Any, value: float) -> Any:
    for step in range(4):
        recorder.begin_step(step)
        for block in range(2):
            for branch in range(1 if isinstance(recorder, MagnitudeRecorder) else 2):
                recorder.store(block, branch, torch.full((1, 3, 2), value))
        if isinstance(recorder, InputChangeRecorder):
            nothing = torch.empty(0)
            recorder.decide(Seen(nothing, nothing, nothing, lambda: torch.full((1, 3, 2), value)))
    return recorder


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_constant_model_is_reused_everywhere(value: float) -> None:
    errors = recorded(ErrorRecorder((4, 2, 2), 3), value).errors()
    threshold = closest_threshold(lambda value: smoothcache_from_errors(errors, value, 1), errors, 0.5)
    assert cached_steps_of(smoothcache_from_errors(errors, threshold, 2)) == [1, 2, 3]
    assert recorded(InputChangeRecorder(4), value).changes().tolist() == [0, 0, 0, 0]
    assert recorded(MagnitudeRecorder(4), value).ratios().tolist() == pytest.approx([1, 1, 1, 1])
    predicted = extrapolation_errors(recorded(ProductRecorder((4, 2, 2)), value).products(), order=1)
    assert predicted[0, 0, 1:].tolist() == [0, 0, 0]


def test_a_cell_that_is_nothing_leaves_the_others_their_errors() -> None:
    products = recorded(ProductRecorder((4, 2, 2)), 2.0).products()
    products[..., 0, 0] = 0
    changed = products.clone()
    changed[3, 3] *= 4  # every other feature of the last step is twice as large
    errors = extrapolation_errors(changed, order=0)
    assert errors[0, 2, 3].isfinite()
    assert errors[0, 0, 1] == 0
    assert errors[0, 2, 3] > 0


def test_what_becomes_something_from_nothing_has_changed_beyond_measure() -> None:
    assert relative_change(torch.zeros(2), torch.ones(2)) == torch.inf
    assert relative(torch.tensor([0.0, 1.0]), torch.tensor(0.0)).tolist() == [0.0, torch.inf]


def test_without_a_finite_measurement_there_is_no_threshold() -> None:
    with pytest.raises(GocError, match="no threshold can be found, as nothing that was measured is finite"):
        closest_threshold(lambda _: torch.zeros(2, 1, 1), torch.full((3,), torch.nan), 0.5)


@pytest.mark.parametrize("predictor", [Taylor, lambda mask, order: HiCache(mask, order, 0.5)])
def test_an_order_beyond_all_measure_is_the_highest_there_is(predictor: Any) -> None:
    mask = uniform(8, 1, 0.5)
    values = []
    for order in (7, 10**9):
        made = predictor(mask, order)
        for step in range(8):
            if mask[step, 0, 0]:
                values.append([factor * tensor.item() for factor, tensor in made.predict(step, (0, 0))])
            else:
                made.store(step, (0, 0), torch.tensor([float(step**2)]))
    half = len(values) // 2
    assert values[:half] == values[half:]


def test_a_factor_that_no_tensor_can_have_is_infinite() -> None:
    mask = torch.zeros(400, 1, 1, dtype=torch.bool)
    mask[200:] = True
    taylor = Taylor(mask, 199)
    for step in range(200):
        taylor.store(step, (0, 0), torch.ones(1))
    assert all(abs(factor) <= 3.5e38 or factor == torch.inf for factor, _ in taylor.predict(399, (0, 0)))
    assert torch.ones(1).add_(torch.ones(1), alpha=torch.inf).item() == torch.inf


def test_growth_beyond_all_numbers_is_infinite() -> None:
    mask = torch.ones(1000, 1, 1, dtype=torch.bool)
    mask[:3] = False
    assert amplification(mask, [65504.0, -65504.0]) == torch.inf
