"""goc check: it tells what is wrong, one part's trouble is no other's, and its page has every table."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkout import oracle_folders, run_environment
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from goc.check import beside, command, isolated, oracles, page, steps, workers
from goc.check.contenders import Workload, project_contenders
from goc.check.kept import Kept
from goc.check.parts import parts_of
from goc.check.setting import FULL, TINY, Case, Outcome, Part, Table
from goc.models.dit import DiT
from goc.system.command import run_command

Check = Callable[..., int]


def outcome(failures: list[str] | None = None, name: str = "fine") -> Outcome:
    frame = pd.DataFrame({"a": [1.0, float("nan")], "hidden": [3, 4]})
    return Outcome(Table(name, f"The title of {name}", "How to read it", frame, {"a": "ms ↓"}), failures or [])


def broken() -> Outcome:
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")


def killed() -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return outcome()


def stuck(note: Path) -> Outcome:
    child = subprocess.Popen(["sleep", "60"])
    note.write_text(str(child.pid))
    time.sleep(60)
    return outcome()


def is_running(pid: str) -> bool:
    """Whether a process is there and not just waiting to be buried."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """goc check --tiny in this process, with other parts if some are given."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(*arguments: str, parts: list[Part] | None = None) -> int:
        if parts is not None:
            monkeypatch.setattr(command, "parts_of", lambda setting, folders: parts)
        return run_command(partial(command.main, ["--tiny", "--out", str(tmp_path / "out"), *arguments]))

    return run


def test_a_part_that_fails_is_one_line_and_the_others_go_on(check: Check, tmp_path: Path) -> None:
    parts = [
        Part("broken", 60, broken),
        Part("killed", 60, killed),
        Part("stuck", 1, partial(stuck, tmp_path / "child")),
        Part("wrong", 60, partial(outcome, ["<3> is not 4"], "wrong")),
        Part("fine", 60, outcome),
    ]
    assert check(parts=parts) == 1
    shown = (tmp_path / "out" / "index.html").read_text()
    assert "out of memory (tried to allocate 20 GiB)" in shown
    assert "ended without an answer, exit code -9" in shown
    assert "took longer than 1 s" in shown
    assert "&lt;3&gt; is not 4" in shown
    assert shown.count('class="failed"') == 4
    assert shown.count('class="passed"') == 1
    assert "broken()" not in shown
    assert "raise torch.OutOfMemoryError" in (tmp_path / "out" / "broken.log").read_text()
    assert not is_running((tmp_path / "child").read_text())  # what a part started ends with it


def test_a_check_that_passes_leaves_its_tables_and_says_so(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(parts=[Part("fine", 60, outcome)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 passed; written to ")
    assert (tmp_path / "out" / "fine.csv").read_text().splitlines() == ["a,hidden", "1.0,3", ",4"]
    shown = (tmp_path / "out" / "index.html").read_text()
    assert all(text in shown for text in ("fine.csv", "The title of fine", "How to read it", "ms ↓"))
    assert "hidden" not in shown
    assert "| ms ↓   |\n|:-------|\n| 1      |\n" in (tmp_path / "out" / "tables.md").read_text()


def test_a_part_that_this_machine_lacks_something_for_is_no_failure(check: Check, tmp_path: Path) -> None:
    lacking = partial(Outcome, outcome().table, missing="Triton is not installed")
    assert check(parts=[Part("fine", 60, lacking)]) == 0
    shown = (tmp_path / "out" / "index.html").read_text()
    assert 'class="skipped">skipped<' in shown
    assert "Triton is not installed" in shown
    assert "fine.csv" not in shown
    assert not (tmp_path / "out" / "fine.csv").exists()


def test_parts_that_there_is_no_time_for_are_said_and_are_no_success(tmp_path: Path) -> None:
    waiting = Part("waiting", 60, partial(time.sleep, 0.2))  # gives no outcome
    parts = [waiting, Part("late", 60, outcome)]
    reports = list(command.perform(parts, Kept(tmp_path, "key"), {}, "fork", total=command.LEAST_S + 0.1))
    assert [report.state for report in reports] == ["failed", "not started"]
    assert reports[1].says == ["not started: the 10 s for all parts are spent; the same command goes on with it"]


def test_what_an_earlier_check_left_is_taken_away(check: Check, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("fine.csv", "other.csv"):
        (tmp_path / "out" / name).write_text("old")
    assert check(parts=[Part("fine", 60, broken)]) == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["other.csv"]


def test_without_a_gpu_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_command(partial(command.main, ["--out", str(tmp_path / "out")])) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: no CUDA GPU is visible")
    assert shown.out == ""
    assert not (tmp_path / "out").exists()


def test_a_part_that_there_is_not_is_one_line(check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--only", "gate") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "--only gate: must be of oracles, kernels, workers, " in line


def test_every_part_can_be_sent_to_a_process_of_its_own() -> None:
    for setting in (FULL, TINY):
        for part in parts_of(setting, []):
            sent = pickle.loads(pickle.dumps(part.run))
            assert (sent.func, sent.args) == (part.run.func, part.run.args), part.name


def test_a_spawned_process_answers_as_well(tmp_path: Path) -> None:
    ended = isolated.run(partial(Case, "bf16", 8), 60, tmp_path / "log", "spawn")
    assert (ended.result, ended.error) == (Case("bf16", 8), "")


# ---------------------------------------------------------------- going on


def counted(notes: Path, name: str, number: float = 0.1) -> Outcome:
    """A part that leaves a line each time it runs; its table has what a file must not lose."""
    with notes.open("a") as file:
        file.write(f"{name}\n")
    frame = pd.DataFrame({"a": [number + 0.2, float("nan")], "is": [True, False], "note": ["", "x"], "n": [1, 2]})
    return Outcome(Table(name, name, "", frame, {"a": "ms ↓"}), findings=[f"{name} is fine."])


def stuck_after(notes: Path) -> Outcome:
    notes.write_text(f"{notes.read_text()}{os.getpid()}\n")
    time.sleep(60)
    return outcome()


def test_a_killed_check_goes_on_where_it_was_and_what_it_ran_ends_with_it(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes, out = tmp_path / "notes", tmp_path / "out"
    one, two = (Part(name, 60, partial(counted, notes, name)) for name in ("one", "two"))
    process = multiprocessing.get_context("fork").Process(
        target=check, kwargs={"parts": [one, Part("two", 60, partial(stuck_after, notes))]}
    )
    process.start()
    until(lambda: notes.exists() and notes.read_text().count("\n") == 2)
    table, page_of_killed = (out / "one.csv").read_bytes(), (out / "index.html").read_text()
    process.kill()
    process.join()
    until(lambda: not is_running(notes.read_text().split()[-1]))
    assert "not reached" in page_of_killed
    notes.unlink()
    assert check(parts=[one, two]) == 0
    assert notes.read_text() == "two\n"
    assert (out / "one.csv").read_bytes() == table
    assert "one                     passed        kept  one is fine." in capsys.readouterr().out
    assert "one is fine." in (out / "index.html").read_text()
    notes.unlink()
    assert check(parts=[one, two]) == 0  # it came to its end: the next one begins anew
    assert notes.read_text() == "one\ntwo\n"


def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_failed_is_run_again_and_so_is_all_with_fresh(check: Check, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    parts = [Part("one", 60, partial(counted, notes, "one")), Part("broken", 60, broken)]
    for options, count in (((), 1), ((), 1), (("--fresh",), 2), ((), 2)):
        assert check(*options, parts=parts) == 1
        assert notes.read_text().count("one") == count
    parts[1] = Part("broken", 60, partial(counted, notes, "broken"))
    assert check(parts=parts) == 0
    assert notes.read_text().split()[2:] == ["broken"]


def test_a_part_that_is_damaged_on_disk_or_of_other_code_is_run_again(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, file = tmp_path / "notes", tmp_path / "out" / "unfinished" / "one.json"
    parts = [Part("one", 60, partial(counted, notes, "one")), Part("broken", 60, broken)]
    check(parts=parts)
    for content, reason in (
        (file.read_text().replace("is fine", "is fast"), "is damaged (its checksum does not match): one is run again"),
        (file.read_text()[:-40], "is damaged ("),
        ("[]", "is damaged ("),
    ):
        file.write_text(content)
        notes.unlink()
        check(parts=parts)
        assert notes.read_text() == "one\n"
        assert reason in capsys.readouterr().out
    monkeypatch.setattr(command, "check_key", lambda *_: "another")
    check(parts=parts)
    assert notes.read_text() == "one\none\n"
    assert "is of other code, another setting or another machine: one is run again" in capsys.readouterr().out


# ---------------------------------------------------------------- oracles


def copied_oracle(request: pytest.FixtureRequest, folder: Path, error: float) -> Path:
    """A folder with one published trajectory, whose last value is off by `error`."""
    named = [of / "euler10_unguided.safetensors" for of in oracle_folders(request.config)]
    source = next((path for path in named if path.exists()), None)
    if source is None:
        pytest.skip("the folder given by --oracles is absent")
    with safe_open(source, framework="pt") as file:
        about = file.metadata()
    data = load_file(source)
    data["trajectory"][-1, -1, -1, -1, -1] += error
    folder.mkdir()
    save_file(data, folder / source.name, metadata=about)
    weights = json.loads(about["case"])["weights"]
    shutil.copy(source.parent / weights, folder / weights)
    return folder


@pytest.mark.parametrize(("error", "code"), [(0.0, 0), (2e-4, 1), (float("nan"), 1)])
def test_a_trajectory_that_is_not_the_authors_fails(
    check: Check, request: pytest.FixtureRequest, tmp_path: Path, error: float, code: int
) -> None:
    folder = copied_oracle(request, tmp_path / "oracles", error)
    assert check("--only", "oracles", "--oracles", str(folder)) == code
    shown = (tmp_path / "out" / "index.html").read_text()
    assert ("from the authors&#39;, allowed 0.0001" in shown) == bool(code)
    assert f"{0 if code else 4} of 4 agree" in shown


def test_no_oracles_are_no_success(check: Check, tmp_path: Path) -> None:
    assert check("--only", "oracles", "--oracles", str(tmp_path / "nowhere")) == 1
    assert "no oracles in" in (tmp_path / "out" / "index.html").read_text()


# ---------------------------------------------------------------- one device

META = torch.device("meta")  # has shapes but no values, and refuses to compute with tensors of the CPU


def on_meta() -> DiT:
    with META:
        model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=3, num_heads=2, num_classes=5)
    return model.eval().requires_grad_(False)


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.no_grad())  # does not know the device meta


@pytest.mark.usefixtures("any_device")
@torch.inference_mode()
def test_every_method_keeps_all_its_tensors_on_the_models_device() -> None:
    for contender in project_contenders(Workload(on_meta(), batch=2, cfg_scale=1.5, steps=8, device=META)):
        assert {x.device for x in contender.start()} == {META}, contender.name


def test_oracles_keep_all_their_tensors_on_the_datas_device(request: pytest.FixtureRequest) -> None:
    kinds = ("ddim20_goc_50", "ddim20_taylor_n4_o2", "ddpm20_none", "midpoint10")
    for path in oracles.oracle_files(oracle_folders(request.config)):
        if path.stem not in kinds:
            continue
        with safe_open(path, framework="pt") as file:
            case = json.loads(file.metadata()["case"])
        with META:
            model = DiT(**case["model"])
        data = {name: tensor.to(META) for name, tensor in load_file(path).items()}
        mask = oracles.mask_of(case, model.depth, path.parent.parent / "data")
        cache = oracles.caches_of(case, data, mask)[-1]
        assert oracles.trajectory(model, case, data, cache).device == META


# ---------------------------------------------------------------- workers, steps


def test_shards_that_differ_are_counted_and_measured(tmp_path: Path) -> None:
    latents = torch.zeros(2, 3)
    folders: list[dict[str, Path]] = [{}, {}]
    for folder, other in ((0, 0.0), (1, 0.25)):
        for name, value in (("shard-0", 0.0), ("shard-1", other)):
            folders[folder][name] = tmp_path / f"{folder}-{name}"
            save_file({"latents": latents + value}, folders[folder][name])
    assert workers.compared(*folders) == {"shards": 2, "equal": 1, "largest_difference": 0.25}
    del folders[1]["shard-0"]
    assert workers.compared(*folders)["equal"] == 0


def steps_table(**columns: list[float] | list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": ["none", "reuse 50 %", "goc 50 %", "cache-dit 50 %"],
            "full_median_s": [0.02, 0.02, 0.02, float("nan")],
            "cached_median_s": [float("nan"), 0.004, 0.005, float("nan")],
            "images_per_s": [1.0, 2.0, 2.0, float("nan")],
            "speedup": [1.0, 2.0, 2.0, float("nan")],
            "recompiled": [0.0, 0.0, 0.0, float("nan")],
            "peak_mib": [10.0, 20.0, 30.0, float("nan")],
            "note": ["", "", "", "not installed"],
            **columns,
        }
    )


@pytest.mark.parametrize(
    ("columns", "failures"),
    [
        ({}, []),
        ({"recompiled": [0, 0, 2, 0]}, ["goc 50 %: 2 graphs compiled in timed trajectories"]),
        ({"note": ["", "OutOfMemoryError: full", "", ""]}, ["reuse 50 %: OutOfMemoryError: full"]),
    ],
)
def test_a_row_of_ours_without_numbers_and_late_graphs_are_failures(
    columns: dict[str, list[float]], failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "steps", lambda settings: steps_table(**columns))
    outcome = steps.check(TINY, Case("bf16", 8))
    assert outcome.failures == failures
    assert outcome.findings[0].startswith("goc 50 %: a cached step takes 5 ms, a full one 20 ms")


def test_measured_steps_stand_beside_the_least_times_of_their_case() -> None:
    eager, compiled = Case("bf16", 8), Case("bf16", 8, compiled=True)
    table = beside.roofline(TINY, {eager: steps_table(), compiled: steps_table()}).frame
    assert list(table["step"]) == ["full", "cached"] * 2
    assert list(table["measured_ms"]) == pytest.approx([20, 4] * 2)
    assert list(table["of_bound"]) == pytest.approx(list(table["least_ms"] / table["measured_ms"]))
    assert table["least_ms"][0] == table["least_ms"][2]
    assert table["least_ms"][3] < table["least_ms"][1]  # compiled, the residual stream is passed over once
    memory = beside.memory({eager: steps_table(), compiled: steps_table().iloc[:2]}).frame
    assert memory.set_index("method")["steps-bf16-8"]["goc 50 %"] == 30
    assert memory["steps-bf16-compiled-8"].isna().tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000123456, "0.0001235"), (12, "12"), (True, "yes"), (float("nan"), ""), ("a", "a"), (None, "")],
)
def test_cells_are_short(value: object, text: str) -> None:
    assert page.cell(value) == text


# ---------------------------------------------------------------- all of it


@pytest.mark.nightly
def test_the_tiny_check_runs_every_part_and_its_page_names_every_table(tmp_path: Path) -> None:
    if not all(folder.exists() for folder in oracles.FOLDERS):
        pytest.skip("the oracles in shared/ are absent")
    words = [sys.executable, "-m", "goc", "check", "--tiny"]
    finished = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=run_environment())
    assert finished.returncode == 0, finished.stdout + finished.stderr
    folder = tmp_path / "outputs" / "gpu_check"
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    cases = [case.name for case in TINY.cases]
    parts = {"oracles", "kernels", "workers", "training", "profile", "transformers", "pipeline", "graphs", *cases}
    assert set(tables) | {"kernels"} == parts | {"rates", "roofline", "memory"}  # the kernels' part may lack Triton
    shown = (folder / "index.html").read_text()
    assert all(f"({name}.csv)" in shown for name in tables)
    assert shown.count('class="failed"') == shown.count('class="not-started"') == 0
    assert shown.count('class="passed"') + shown.count('class="skipped"') == len(parts)
    assert "Its times mean nothing" in shown
    assert tables["workers"]["equal"].tolist() == tables["workers"]["shards"].tolist() == [8]
    assert tables["roofline"]["compiled"].tolist() == [False] * 2 + [True] * 3  # the first has no reuse at site=stack
    assert (tables["roofline"]["measured_ms"] > 0).all()
    assert tables[cases[1]]["graphs"].tolist() == [2, 1, 0, 0]  # a full step's two, a cached step's one
    assert "compile=false" in shown
