"""Faults of the machine around a command: it does its work all the same, or one line says what is wrong and is kept."""

import ast
import errno
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from application import Run, call_here
from checkout import REPOSITORY, only_result, run_environment
from filelock import FileLock
from refusals import Bad, assert_refused
from safetensors import SafetensorError
from warm import WarmProcess

import goc.sampling.converged
from goc.models.decoder import latent_decoder
from goc.report import study, vega
from goc.sampling.generation import Generation
from goc.system import files
from goc.system.command import run_command
from goc.system.errors import GocError, is_out_of_memory, memory_for, one_line
from goc.train import learning, router, weights

TINY = ("num_samples=4", "batch_size=4", "steps=4", "calibration_samples=2", "latency_repeats=0", "metrics=[isc]",
        "converged_samples=0", "cache_ratio=0.5", "hydra.run.dir=here")  # fmt: skip
SWEEP = ("-m", *TINY[:-1], "hydra.sweep.dir=sweep")


def on_a_machine(folder: Path, fault: str | None, settings: tuple[str, ...] = TINY) -> "CompletedProcess[str]":
    """Run the tiny run in a new folder, as a process with a fault of `faults.py`."""
    folder.mkdir()
    process = WarmProcess(["run.py", *settings], folder, run_environment(), fault=fault)
    stdout, stderr = process.communicate()
    return CompletedProcess(settings, process.returncode or 0, stdout, stderr)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the tiny run gives on a machine without faults."""
    folder = tmp_path_factory.mktemp("sound") / "work"
    assert on_a_machine(folder, None).returncode == 0
    return only_result(folder)["metrics"]


# --- the work is done all the same ---------------------------------------------------------------------------------

WITHOUT_A_REPORT = ("closed_output", "closed_streams", "unwritable_home", "no_width", "no_temporary_folder", "c_locale",
                    "few_files", "ignored_hangup", "private_files", "shared_files")  # fmt: skip
WITH_A_REPORT = ("ascii_streams", "latin_streams", "reader_gone", "no_home")


@pytest.mark.parametrize("fault", [*WITHOUT_A_REPORT, *WITH_A_REPORT])
def test_a_run_and_its_sweep_end_as_ever(tmp_path: Path, metrics: dict[str, Any], fault: str) -> None:
    folder = tmp_path / "work"
    finished = on_a_machine(folder, fault, SWEEP if fault in WITH_A_REPORT else TINY)
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    assert only_result(folder)["metrics"] == pytest.approx(metrics, rel=1e-5)  # another process may round otherwise
    if fault in WITH_A_REPORT:
        assert (folder / "sweep" / "report.html").stat().st_size > 500_000
        assert (folder / "sweep" / "table.md").exists()
    if fault in ("ascii_streams", "latin_streams"):
        shown = "\\xb1" if fault == "ascii_streams" else "±".encode("iso8859-15").decode(errors="replace")
        assert shown in finished.stdout
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {{"private_files": 0o600, "shared_files": 0o664}.get(fault, 0o666 & ~current_umask())}


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_full_disk_behind_standard_output_is_an_error_after_the_work(tmp_path: Path) -> None:
    finished = on_a_machine(tmp_path / "work", "full_output")
    assert finished.returncode == 1
    assert "standard output or error: cannot be made, read or written (No space left on device)" in finished.stderr
    assert only_result(tmp_path / "work")


def test_every_file_is_read_and_written_as_utf8_whatever_the_locale() -> None:
    """Text without an encoding would be in the locale's: found in the code, as few locales are on a test's machine."""
    calls = []
    for folder in ("goc", "scripts", "hydra_plugins"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and in_the_locales_encoding(node):
                    calls.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert not calls


def in_the_locales_encoding(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    texts = [node.value for node in call.args if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    text_mode = any(text in ("r", "w", "a", "x", "r+", "w+") for text in texts)
    of_proc = any(text == "5" for text in texts) or "/proc/" in ast.unparse(call)
    return (name in ("read_text", "write_text") and not of_proc and not is_of_files(call)) or (
        name == "open" and (text_mode and "archive" not in ast.unparse(call))
    )


def is_of_files(call: ast.Call) -> bool:
    """goc.system.files.write_text(path, text)."""
    return isinstance(call.func, ast.Name)


def test_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "caf\udce9 ±")
    assert (tmp_path / "a").read_bytes() == "caf\\udce9 ±".encode()


# --- Vega's script -------------------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "another byte": lambda content: content[:-100] + b"!" + content[-99:],
    "another script": lambda content: b"alert(1)",
    "no text": lambda content: b"\xff\xfe" + content,
    "of an earlier version": lambda content: content.split(b"\n", 1)[1],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_script_in_the_users_cache_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    made = []

    def bundle(snippet: str) -> str:
        made.append(snippet)
        return "const script = '</script';" + "x" * 200

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(vega.vl_convert, "javascript_bundle", bundle)
    script = vega.library.__wrapped__()
    assert vega.library.__wrapped__() == script
    assert len(made) == 1  # kept
    (kept,) = tmp_path.rglob("vega-*.js")
    whole = kept.read_bytes()
    kept.write_bytes(DAMAGE[damage](whole))
    assert vega.library.__wrapped__() == script
    assert len(made) == 2
    assert kept.read_bytes() == whole


def test_a_relative_cache_folder_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert files.cache_folder() == Path.home() / ".cache"


# --- memory --------------------------------------------------------------------------------------------------------


def allocate_too_much() -> None:
    torch.empty(10**15)


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


CUDA = ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3.00 GiB is "
        "free. See documentation for Memory Management")  # fmt: skip
NO_MEMORY: dict[str, Callable[[], Any]] = {
    "torch on the CPU": allocate_too_much,
    "numpy": lambda: np.empty(10**15),
    "Python": lambda: bytes(10**17),
    "torch on a GPU": raising(torch.OutOfMemoryError(CUDA)),
    "the CUDA driver": raising(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")),
    "cuBLAS": raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    "cuDNN": raising(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
    "C++": raising(RuntimeError("std::bad_alloc")),
    "the system": raising(OSError(errno.ENOMEM, "Cannot allocate memory")),
    "safetensors": raising(SafetensorError("Error while mapping: Cannot allocate memory (os error 12)")),
}


@pytest.mark.parametrize("library", NO_MEMORY)
def test_every_librarys_lack_of_memory_is_one_line(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    says = r"^batch_size=64: out of memory.*; choose a smaller one$"
    with pytest.raises(GocError, match=says) as raised, memory_for("batch_size=64"):
        NO_MEMORY[library]()
    assert "\n" not in one_line(raised.value)
    # where nobody named a setting, and where a reader took it for damage to a file
    assert run_command(NO_MEMORY[library]) == 1

    def read() -> None:
        try:
            NO_MEMORY[library]()
        except Exception as error:
            raise GocError("vae=here: damaged") from error

    assert run_command(read) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: out of memory") and "batch_size" in line for line in lines)


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shapes differ"), OSError(2, "no file")])
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), memory_for("batch_size=1"):
        raise error


@pytest.mark.usefixtures("without_plots")
def test_a_run_a_sweep_and_a_training_name_what_to_make_smaller(
    run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "sample", lambda *_: allocate_too_much())
        assert_refused(run_here(*TINY, check=False), r"^error: batch_size=4: out of memory \(.*bytes\); choose a small")
    with monkeypatch.context() as patch:  # one job of a sweep; the others go on
        whole = Generation.sample
        patch.setattr(Generation, "sample", lambda self, i: allocate_too_much() if len(i) == 2 else whole(self, i))
        sweep = run_here(*SWEEP, "batch_size=2,4", "inflection_threshold=null", check=False)
    assert sweep.returncode == 1
    assert "batch_size=2: out of memory" in sweep.stderr
    assert "Traceback" not in sweep.stderr
    (reason,) = (tmp_path / "sweep").rglob("error.txt")
    assert reason.read_text().startswith("batch_size=2: out of memory")
    assert only_result(tmp_path / "sweep")["config"]["batch_size"] == 4
    with monkeypatch.context() as patch:
        patch.setattr(goc.sampling.converged, "solve", lambda *_: allocate_too_much())
        refused = run_here(*TINY, "converged_samples=4", "hydra.run.dir=b", check=False)
        assert_refused(refused, r"^error: converged_samples=4: out of memory .*; choose fewer than 64, .* or 0$")

    class Vae:
        def decode(self, latents: torch.Tensor) -> None:
            allocate_too_much()

    with pytest.raises(GocError, match=r"^vae_batch_size=8: out of memory"), memory_for("batch_size=64"):
        latent_decoder(Vae(), 8)(torch.zeros(16, 4, 1, 1))
    monkeypatch.chdir(tmp_path)
    for script, place, function in ((weights, learning, "weighted_denoiser"), (router, router, "learn")):
        monkeypatch.setattr(place, function, lambda *_, **__: allocate_too_much())
        more = () if script is router else ("cache_ratio=0.5", "schedule=uniform", "--samples=4")
        monkeypatch.setattr(sys, "argv", ["train", "steps=4", *more, "--batch=3"])
        assert run_command(script.main) == 1
        assert "error: --batch=3: out of memory" in capfd.readouterr().err


# --- a full disk ---------------------------------------------------------------------------------------------------

# in the order in which a run writes them; what is finished before is kept, so that each is reached
WRITTEN = (
    ("run.json", "are kept"),
    ("alignment-*.safetensors", "what was finished before it is kept"),
    ("search-*[0-9a-f].json", "the schedules tried so far are kept"),
    ("search-*-found*.json", "the schedules tried so far are kept"),
    ("uncached-*/shard-000000-*", "the finished shards are kept"),
    ("samples/shard-000002-*", "the finished shards are kept"),
    ("converged-*.safetensors", "what was finished before it is kept"),
    ("samples.png", "are kept"),
    ("first.npy", "are kept"),
    ("images.npz", "are kept"),
    ("alignment.png", "are kept"),
    ("schedule.json", "are kept"),
    ("influence.safetensors", "are kept"),
    ("result.json", "are kept"),
)
WRITING = (*TINY, "batch_size=2", "method=searched_goc", "schedule.search_evaluations=3", "schedule.search_samples=2",
           "converged_samples=2", "save_images=npz")  # fmt: skip


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("filling")


@pytest.fixture
def no_room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the disk be full when a file whose path ends in a pattern is written."""

    def fill(pattern: str) -> None:
        sync = os.fsync

        def full(number: int) -> None:
            written = Path(os.readlink(f"/proc/self/fd/{number}"))
            named = written.with_name(written.name[1:].rpartition(".")[0])
            if named.match(pattern):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(number)

        monkeypatch.setattr(files.os, "fsync", full)

    return fill


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to know a file by its number")
@pytest.mark.parametrize(("pattern", "kept"), WRITTEN)
def test_a_full_disk_is_one_line_that_names_the_file_and_what_is_kept(
    filling: Path,
    no_room_for: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
    pattern: str,
    kept: str,
) -> None:
    before = {path for path in filling.rglob("*") if path.is_file()}
    no_room_for(pattern)
    refused = call_here(filling, capfd, *WRITING, check=False)
    name = pattern.replace("[0-9a-f]", "").replace(".", r"\.").replace("*", ".*")
    assert_refused(refused, rf"{name}.*: could not be written \(No space left on device\); .*{kept}: make room")
    after = {path for path in filling.rglob("*") if path.is_file()}
    assert before <= after
    assert not [path for path in after if path.match(pattern)]
    assert not [path for path in after if path.name.startswith(".") and not path.name.endswith(".lock")]


def test_with_room_the_same_command_ends(filling: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call_here(filling, capfd, *WRITING)
    assert only_result(filling)["metrics"]["is"] > 0


def test_a_report_without_room_names_its_file_and_a_sweep_its_job(
    filling: Path, no_room_for: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    call_here(filling, capfd, *WRITING)
    no_room_for("tradeoff.png")
    assert run_command(partial(study.main, [str(filling)])) == 1
    assert "/tradeoff.png: could not be written (No space left on device)" in capfd.readouterr().err
    assert not (filling / "tradeoff.png").exists()


# --- folders -------------------------------------------------------------------------------------------------------

FOLDERS = (
    Bad("a cache that cannot be made", ("cache_dir=/proc/goc",), r"/proc/goc"),
    Bad("a cache that is a file", ("cache_dir=file",), r"^error: cache_dir=file: must be a folder, and there is"),
    Bad("a cache below a file", ("cache_dir=file/cache",), r"^error: cache_dir=file/cache: must be a folder"),
    Bad("a run in a file", ("hydra.run.dir=file",), r"file"),
    Bad("a run below a file", ("hydra.run.dir=file/run",), r"file/run"),
    Bad("a run where nothing can be", ("hydra.run.dir=/proc/goc",), r"/proc/goc"),
    Bad("a name that is too long", ("hydra.run.dir=" + 300 * "x",), r"File name too long"),
    Bad("a lock that is a folder", ("hydra.run.dir=locked",), r"\.running\.lock: cannot be locked \(Is a directory\)"),
    Bad("a picture that is a folder", ("hydra.run.dir=pictured",), r"samples\.png: could not be written"),
)


@pytest.mark.parametrize("bad", FOLDERS, ids=str)
def test_a_folder_that_cannot_be_used_is_one_line(run_here: Run, tmp_path: Path, bad: Bad) -> None:
    (tmp_path / "file").write_text("of somebody")
    (tmp_path / "locked" / ".running.lock").mkdir(parents=True)
    (tmp_path / "pictured" / "samples.png").mkdir(parents=True)
    assert_refused(run_here(*TINY, *bad.settings, check=False), bad.says)
    assert (tmp_path / "file").read_text() == "of somebody"


@pytest.mark.parametrize(
    ("fault", "says"),
    [("no_locks", r"\.lock: cannot be locked \(No locks available\)"), ("gone_folder", r"No such file or directory")],
)
def test_a_machine_on_which_nothing_can_be_kept_is_one_line(tmp_path: Path, fault: str, says: str) -> None:
    assert_refused(on_a_machine(tmp_path / "work", fault), says)


def test_what_runs_share_is_read_where_nothing_can_be_written(
    run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of others, read-only: no lock can be taken there, and none is needed."""
    run_here(*TINY, "cache_dir=cache")

    acquire = FileLock.acquire

    def refuse(lock: FileLock, *arguments: Any, **more: Any) -> Any:
        if "cache" in Path(lock.lock_file).parts:
            raise PermissionError(errno.EACCES, "Permission denied", lock.lock_file)
        return acquire(lock, *arguments, **more)

    monkeypatch.setattr(FileLock, "acquire", refuse)
    run_here(*TINY, "cache_dir=cache", "predictor=reuse", "hydra.run.dir=other")
    assert json.loads((tmp_path / "other" / "result.json").read_text())["method"] == "reuse"
