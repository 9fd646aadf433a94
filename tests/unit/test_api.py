"""Runs, sweeps and comparisons from Python."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import goc
from goc.api import typed, written
from goc.config import compose_config
from goc.system.errors import GocError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), parts),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def arriving(value: object) -> object:
    """What a value is in a config that it is typed for."""
    given = OverridesParser.create().parse_override(f"key={written(value)}").value()
    arrived = OmegaConf.to_container(OmegaConf.create({"key": given}), resolve=True)
    assert isinstance(arrived, dict)
    return arrived["key"]


@given(values)
@example("\\${seed} \\\\${x} ${a} ${")
@example("a\\")
def test_a_python_value_is_the_same_on_the_command_line(value: object) -> None:
    assume("???" not in repr(value))
    assert arriving(value) == value


@pytest.mark.parametrize(
    "text", ["a,b", "a'b\" c", "a\\", "$x", "${seed}", "\\${seed}", "a${", "a\nb\t", "null", "[1]"]
)
def test_a_text_arrives_as_it_is_typed(text: str) -> None:
    config = compose_config(typed({"model.checkpoint": text, "++model.call": {"k": [text]}, "name": text}))
    assert config.measurement.model.checkpoint == config.output.name == text
    assert config.measurement.model.call == {"k": [text]}


@pytest.mark.parametrize(
    "value", [{"a:b": 1}, {None: 1}, {"a'": 1}, {"": 1}, {"null": 1}, [{"x": {"a,b": 1}}], "???", ["???"]]
)
def test_a_value_that_cannot_be_typed_names_its_key(value: object) -> None:
    with pytest.raises(GocError, match=r"^model\.call=.*: must be text, a number, or a list or dict of them, not "):
        typed({"model.call": value})


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(("value", "same"), [
    (np.float64(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), (np.array([1, 2]), [1, 2]), ((1.5, 2), [1.5, 2]),
    (torch.tensor([0.5]), [0.5]), (Path("a b/c,d"), "a b/c,d"), (Colour.RED, "red"), (np.str_("x,y"), "x,y"),
    ("a\nb $x '${y}' \\", "a\nb $x '${y}' \\"), ({"a": np.float32(0.5)}, {"a": 0.5}), (range(3), [0, 1, 2]),
    ({2: 3, "a b": 4}, {2: 3, "a b": 4}),
], ids=str)  # fmt: skip
def test_values_of_other_libraries_are_those_of_python(value: object, same: object) -> None:
    assert arriving(value) == same


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: goc.run("cach_ratio=0.5"), "cach_ratio"),
        (lambda: goc.run(cache_ratio=1.5), r"cache_ratio=1\.5: must be in \[0, 1\)"),
        (lambda: goc.run(method="gooc"), "gooc"),
        (lambda: goc.run(steps=object()), r"steps=<object .*: must be text, a number, or a list or dict of them"),
        (lambda: goc.run(metrics=[b"fid"]), r"metrics=.*: must be text, a number, .* not bytes"),
        (lambda: goc.sweep("seed=0,1", "hydra.job.chdir=true"), r"hydra\.job\.chdir=True: must be false"),
        (lambda: goc.sweep("cach_ratio=0.5,0.6"), "cach_ratio"),
        (lambda: goc.sweep("cache_ratio=0.5,0.6", "hydra.job.chdir=true"), "hydra.job.chdir"),
        (lambda: goc.compare("here", "there"), "here: holds no finished run"),
        (lambda: goc.Result.load("here"), "here: holds no finished run"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises(GocError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_public_names_are_these() -> None:
    documented = "run sweep score compare Result Sweep enable_cache disable_cache attach calibrate load_plan"
    assert set(goc.__all__) == set(documented.split())
    for name in goc.__all__:
        assert getattr(goc, name) is not None
