"""Damaged runs beside good ones: each is a line that names it, and the report on the others is as if it were not there.

All of them lie in one study, so the report is made once, and each row of the table is a test of its own.
"""

import contextlib
import functools
import io
import json
import operator
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.reports import make_run, result_of
from safetensors.numpy import save_file

from goc.report import families, study
from goc.report.frame import over_seeds, series_names, table
from goc.report.page import write_html
from goc.report.pairs import Point
from goc.report.shape import problem_of
from goc.report.tables import latex, markdown
from goc.report.text import csv_text
from goc.system.command import run_command
from goc.system.errors import GocError
from goc.tracking.__main__ import run_folders

SAMPLES = 20
GOOD = 4  # runs without damage: one uncached, three cached

Damage = Callable[[Path, dict[str, Any]], None]


@dataclass(frozen=True)
class Case:
    """What is done to a run's folder, what is said of it, and whether its row stays in the table."""

    name: str
    damage: Damage
    says: str
    stays: bool = False


def result(path: str, value: Any, says: str) -> Case:
    """A value where result.json has another; ... removes it."""

    def damage(folder: Path, content: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content.setdefault(key, {})
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return Case(f"{path}={str(value)[:20]}", damage, says)


def content(file: str, text: bytes | None, says: str, stays: bool = False) -> Case:
    """A file of other bytes; None: a folder in its place."""

    def damage(folder: Path, _: dict[str, Any]) -> None:
        (folder / file).unlink(missing_ok=True)
        if text is None:
            (folder / file).mkdir()
        else:
            (folder / file).write_bytes(text)

    return Case(f"{file} is {'a folder' if text is None else str(text[:20])}", damage, says, stays)


def cut(file: str, says: str, stays: bool = False) -> Case:
    def damage(folder: Path, _: dict[str, Any]) -> None:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[: len(whole) // 2])

    return Case(f"half of {file}", damage, says, stays)


def special(file: str, kind: str, says: str, stays: bool = False) -> Case:
    def damage(folder: Path, _: dict[str, Any]) -> None:
        (folder / file).unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(folder / file)
        else:
            (folder / file).symlink_to(kind)

    return Case(f"{file} is {kind}", damage, says, stays)


def influence(name: str, says: str, **arrays: np.ndarray) -> Case:
    def damage(folder: Path, _: dict[str, Any]) -> None:
        save_file(arrays, folder / "influence.safetensors")

    return Case(f"influence {name}", damage, says, stays=True)


def images(name: str, array: np.ndarray, says: str = "first.npy is damaged") -> Case:
    def damage(folder: Path, _: dict[str, Any]) -> None:
        np.save(folder / "first.npy", array, allow_pickle=True)

    return Case(f"images {name}", damage, says, stays=True)


def header(shape: str) -> bytes:
    """An array file that claims a shape."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


HALF, WHOLE = (np.arange(count, dtype=np.float32) for count in (SAMPLES // 2, SAMPLES))
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
NO_JSON = json.dumps(result_of(1, SAMPLES)).encode()
NUMBER = "not a finite number"
CASES = [
    content("result.json", b"", "result.json is damaged"),
    content("result.json", None, "result.json is no file"),
    content("result.json", b"\xff\xfe\x00", "result.json is damaged"),
    content("result.json", b"[]", "holds no object"),
    content("result.json", b"null", "holds no object"),
    content("result.json", b"{}", "method is missing"),
    content("result.json", DEEP, "nested too deep"),
    content("result.json", NO_JSON.replace(b'"fid": ', b'"fid": NaN, "x": '), "NaN is no JSON"),
    content("result.json", NO_JSON.replace(b'"fid": ', b'"fid": -Infinity, "x": '), "-Infinity is no JSON"),
    content("result.json", NO_JSON.replace(b'"fid": ', b'"fid": ' + b"9" * 5000 + b', "x": '), "damaged"),
    cut("result.json", "result.json is damaged"),
    special("result.json", "pipe", "result.json is no file"),
    special("result.json", "/dev/zero", "result.json is no file"),
    special("result.json", "nowhere", "result.json is no file"),
    special("result.json", "result.json", "result.json is no file"),
    result("metrics.fid", "good", f'metrics.fid is "good", {NUMBER}'),
    result("metrics.fid", True, f"metrics.fid is true, {NUMBER}"),
    result("metrics.fid", [1.0], f"metrics.fid is a list, {NUMBER}"),
    result("metrics.fid", 10**400, f"metrics.fid is a number too large, {NUMBER}"),
    result("metrics.fid_se", -1.0, "an error is at least 0"),
    result("metrics.other", "3", f'metrics.other is "3", {NUMBER}'),
    result("metrics", [], "metrics is a list, not an object"),
    result("metrics", None, "metrics is missing"),
    result("distance.drift", {"a": 1}, f"distance.drift is an object, {NUMBER}"),
    result("converged.mean", "0.1", NUMBER),
    result("converged", 3, "converged is 3, not an object"),
    result("cost.cache_ratio", 1.0, "cost.cache_ratio is 1.0, not a share"),
    result("cost.evaluations", -5, "cost.evaluations is -5"),
    result("cost.evaluations", 1e300, "not a number of evaluations"),
    result("cost.latency_ratio", 0, "not a number above 0"),
    result("cost.gmacs_per_image", "many", "cost.gmacs_per_image"),
    result("cost", ..., "cost is missing"),
    result("config", ..., "config is missing"),
    result("config.model", "digits", "config.model is \"digits\", not an object"),
    result("config.model.name", ..., "config.model.name is missing"),
    result("config.model.name", ["a"], "config.model.name is a list, not text"),
    result("config.steps", "twenty", 'config.steps is "twenty", not a number of steps'),
    result("config.steps", 10**12, "not a number of steps"),
    result("config.seed", 0.5, "config.seed is 0.5, not a whole number"),
    result("config.num_samples", 0, "config.num_samples is 0, not a number of samples"),
    result("config.cfg_scale", "high", "config.cfg_scale"),
    result("config.gradient_weights", ["a"], "config.gradient_weights is a list, not numbers"),
    result("config.sampler", 7, "config.sampler is 7, not a name or an object"),
    result("config.sampler", {"name": ["ddim"]}, "config.sampler.name is a list, not text"),
    result("config.schedule", {"path": 3}, "config.schedule.path is 3, not text"),
    result("config.name", "\ud800", "half a character"),
    result("config.extra", json.loads("[" * 40 + "]" * 40), "nested more than"),
    result("inflection.alignment", ["a"], "inflection.alignment is a list, not a list of numbers"),
    result("inflection.alignment", [0.5], "inflection.alignment is of 1 steps"),
    result("inflection", 1, "inflection is 1, not an object"),
    result("cached_steps", [-1], "cached_steps is a list, not a list of steps"),
    result("cached_steps", [500], "cached_steps has step 500 of"),
    result("cached_share", [2.0], "cached_share is a list, not a list of shares"),
    result("measurement", ..., "measurement is missing"),
    result("measurement", {}, "measurement is missing"),
    result("measurement", "digits", "measurement is \"digits\", not an object"),
    result("method", ["goc"], "method is a list, not text"),
    result("samples.folder", 3, "samples.folder is 3, not text"),
    content("influence.safetensors", b"", "influence.safetensors is damaged: no paired errors", stays=True),
    content("influence.safetensors", None, "influence.safetensors is no file", stays=True),
    cut("influence.safetensors", "influence.safetensors is damaged", stays=True),
    special("influence.safetensors", "pipe", "influence.safetensors is no file", stays=True),
    influence("of another N", "is of 10 samples, not 20", fid=HALF),
    influence("of some of the pairs", "is of 20 samples, not 10", drift=HALF, relative_l2=WHOLE),
    influence("of too many", "is of 40 samples, not 20", other=np.concatenate([WHOLE, WHOLE])),
    influence("of NaN", "is not finite in fid: no paired errors", fid=np.full(SAMPLES, np.nan, np.float32)),
    influence("with one infinity", "is not finite in fid", fid=np.append(WHOLE[1:], np.float32(np.inf))),
    influence("in two dimensions", "influence.safetensors is damaged", fid=WHOLE[:, None]),
    influence("of integers", "influence.safetensors is damaged", fid=WHOLE.astype(np.int64)),
    influence("of nothing", "influence.safetensors is damaged", fid=WHOLE[:0]),
    content("first.npy", b"", "first.npy is damaged (no images", stays=True),
    content("first.npy", None, "first.npy is no file: no pictures", stays=True),
    content("first.npy", header("(100000, 3, 100000, 100000)"), "first.npy is damaged", stays=True),
    content("first.npy", header("(-1, 3, 8, 8)"), "first.npy is damaged", stays=True),
    content("first.npy", header("(" * 40), "first.npy is damaged", stays=True),
    cut("first.npy", "first.npy is damaged", stays=True),
    special("first.npy", "/dev/zero", "first.npy is no file", stays=True),
    images("of objects", np.array([{}, 1], dtype=object)),
    images("of floats", np.zeros((2, 3, 8, 8), dtype=np.float32)),
    images("without samples", np.zeros((0, 3, 8, 8), dtype=np.uint8)),
    images("of four channels", np.zeros((2, 4, 8, 8), dtype=np.uint8)),
    images("flat", np.zeros(64, dtype=np.uint8)),
    content("error.txt", b"", "error.txt is empty", stays=True),
    content("error.txt", b"\n\n", "error.txt is empty", stays=True),
    content("error.txt", None, "error.txt is no file", stays=True),
    special("error.txt", "pipe", "error.txt is no file", stays=True),
]  # fmt: skip


def make(folder: Path, number: int) -> dict[str, Any]:
    """A run of a point of its own, written by hand."""
    content = make_run(folder, 2 * number + 1, SAMPLES)
    (folder / "run.json").write_text("{}")
    return content


@dataclass(frozen=True)
class Report:
    """A report on the good runs and the damaged ones."""

    folder: Path
    stderr: str
    page: str
    rows: str  # results.csv


@pytest.fixture(scope="module", autouse=True)
def without_pictures() -> Iterator[None]:
    """They take longest, and get no more than the rows of the table, which are of whole results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "plot_tradeoff", lambda *_: "")
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without damage, and its report."""
    folder = tmp_path_factory.mktemp("good")
    make_run(folder / "uncached", 0, SAMPLES)
    for number in range(1, GOOD):
        make(folder / f"good-{number}", number)
    assert study.main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def report(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(good, folder / "good")
    for number, case in enumerate(CASES, GOOD):
        run = folder / f"case-{number - GOOD}"
        whole = make(run, number)
        before = json.dumps(whole)
        case.damage(run, whole)
        if json.dumps(whole) != before:
            (run / "result.json").write_text(json.dumps(whole))
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        assert study.main([str(folder)]) == 0
    page, rows = ((folder / name).read_text() for name in ("report.html", "results.csv"))
    return Report(folder.resolve(), stderr.getvalue(), page, rows)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_a_damaged_run_is_skipped_with_a_reason(report: Report, number: int) -> None:
    folder = report.folder / f"case-{number}"
    (line,) = [line for line in report.stderr.splitlines() if line.startswith(f"skipped: {folder}: ")]
    assert CASES[number].says in line
    assert f"<dt>{folder}</dt>" in report.page


def test_the_report_on_the_others_is_as_if_the_damaged_ones_were_not_there(report: Report, good: Path) -> None:
    whole = (good / "results.csv").read_text().splitlines()
    rows = report.rows.splitlines()
    assert set(whole) <= set(rows)
    assert len(rows) == len(whole) + sum(case.stays for case in CASES)
    assert "Traceback" not in report.stderr


def test_nothing_but_damaged_runs_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text("{")
    assert run_command(partial(study.main, [str(tmp_path), str(tmp_path / "nowhere")])) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["skipped", "skipped", "error"]
    assert "does not exist" in lines[0]
    with pytest.raises(GocError, match="no finished run below"):
        run_folders([tmp_path])


WORDS = ["word", "", None, True, -1, 0, -0.5, 3.7, 1e140, 1e308, 10**400, [], {}, [None], ["x"], [[1]],
         "a$b_{\\^~\n|", "=1+1", "\x1b[31m", "\u202e", "x" * 5000]  # fmt: skip


def everywhere(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a result, and of a list to its first entries."""
    if path:
        yield path
    inside = value if isinstance(value, dict) else range(min(2, len(value))) if isinstance(value, list) else ()
    for key in inside:
        yield from everywhere(value[key], (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.nightly)])
def test_whatever_stands_anywhere_in_a_result_is_refused_or_reported(every: int, tmp_path: Path) -> None:
    """Those that are accepted are each reported on, in every format but the pictures, beside an uncached run."""
    whole = {**result_of(3, SAMPLES), "samples": {"folder": "samples"}, "fingerprint": "0"}
    whole["config"]["model"]["family"] = "made up"
    accepted = [result_of(0, SAMPLES)]
    for number, path in enumerate(everywhere(whole)):
        if number % every:
            continue
        for word in [..., *WORDS[number % 4 :: 4]]:  # each word somewhere, each place several
            changed = json.loads(json.dumps(whole))
            *parents, last = path
            parent = functools.reduce(operator.getitem, parents, changed)
            if word is not ...:
                parent[last] = word
            elif isinstance(parent, dict):
                del parent[last]
            if not problem_of(changed):
                accepted.append(changed)
    assert 50 < len(accepted) * every < 1200
    for number, content in enumerate(accepted[1:], 1):
        content["config"]["calibration_seed"] = number
        frame = over_seeds(table([accepted[0], content]))
        frame["series"] = series_names(frame)
        points = [Point({0: tmp_path}, {0: row}) for row in frame.to_dict("records")]
        assert markdown(frame, points).count("\n| ") >= 3
        assert latex(frame, points)
        assert families.markdown(frame, points) == ""
    frame = over_seeds(table(accepted))
    frame["series"] = series_names(frame)
    points = [Point({0: tmp_path}, {0: row}) for row in frame.to_dict("records")]
    write_html(frame, [None] * len(frame), points, [], tmp_path / "report.html")
    assert len(csv_text(frame).splitlines()) == len(frame) + 1
