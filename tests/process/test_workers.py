"""Several processes share one run: the same images, work dealt out, the dead replaced, and who is missing is named."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkout import REPOSITORY, only_result, run_environment
from warm import WarmProcess, free_port

from goc.sampling.workers import Place, join, place

SMALL = ("num_samples=60", "batch_size=6", "steps=5", "calibration_samples=8", "latency_repeats=0", "cache_ratio=0.4",
         "inflection_threshold=null", "metrics=[isc,fid]", "converged_samples=0")  # fmt: skip
LONG = ("num_samples=240", "distance_samples=0")  # 40 shards
HERE = "hydra.run.dir=here"

Start = Callable[..., WarmProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `python run.py SETTINGS` in tmp_path/FOLDER, alone or as one of several workers; all end with the test."""
    processes: list[WarmProcess] = []

    def begin(*settings: str, folder: str = "", rank: int = 0, count: int = 0, port: str = "") -> WarmProcess:
        torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port} if count else {}
        cwd = tmp_path / folder
        cwd.mkdir(exist_ok=True)
        environment = {**run_environment(), **{name: str(value) for name, value in torchrun.items()}}
        process = WarmProcess([str(REPOSITORY / "run.py"), *SMALL, HERE, *settings], cwd, environment)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def wait_for_shards(folder: Path, process: WarmProcess) -> None:
    """Until the first shard is there (or the process has ended by itself)."""
    while not list(folder.glob("shard-*")) and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.nightly) for count in (2, 4))])
def test_any_number_of_workers_makes_the_same_files(start: Start, tmp_path: Path, count: int) -> None:
    assert start(folder="1").wait() == 0
    alone = shards_of(tmp_path / "1" / "here" / "samples")
    assert len(alone) == 10
    port = free_port()
    workers = [start(folder="several", rank=rank, count=count, port=port) for rank in range(count)]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count, outputs
    folder = tmp_path / "several" / "here"
    assert shards_of(folder / "samples") == alone
    # other processes: BLAS may round KID's float32 products otherwise
    assert only_result(folder)["metrics"] == pytest.approx(only_result(tmp_path / "1")["metrics"], rel=1e-5)
    assert only_result(folder)["workers"] == count
    reports = ["result.json" in stdout for stdout, _ in outputs]
    bars = ["img/s" in stderr for _, stderr in outputs]
    assert reports == bars == [True] + [False] * (count - 1)  # the leader's


def test_torchrun_starts_the_workers_of_a_run(tmp_path: Path) -> None:
    options = ("--nproc-per-node=2", f"--master-port={free_port()}", str(REPOSITORY / "run.py"))
    folder = tmp_path / "work"
    folder.mkdir()
    settings = (*SMALL, "inflection_threshold=0", HERE)
    torchrun = WarmProcess(["torchrun", *options, *settings], folder, run_environment(), "torch.distributed.run")
    _, stderr = torchrun.communicate()
    assert torchrun.returncode == 0, stderr
    assert only_result(folder)["workers"] == 2


def test_the_leader_makes_the_shards_of_a_worker_that_died(start: Start, tmp_path: Path) -> None:
    assert start(folder="alone").wait() == 0
    port = free_port()
    leader, other = (start(folder="together", rank=rank, count=2, port=port) for rank in range(2))
    shards = tmp_path / "together" / "here" / "samples"
    wait_for_shards(shards, leader)
    other.kill()
    assert leader.wait() == 0
    assert shards_of(shards) == shards_of(tmp_path / "alone" / "here" / "samples")


def test_a_missing_worker_is_named(start: Start) -> None:
    port = free_port()
    for worker in [start("worker_timeout_s=5", rank=rank, count=4, port=port) for rank in (0, 2)]:
        _, stderr = worker.communicate()
        assert worker.returncode == 1
        assert "error: worker 1, 3 of 4 did not come within worker_timeout_s=5" in stderr


def test_a_missing_leader_is_named(start: Start) -> None:
    worker = start("worker_timeout_s=2", rank=1, count=2, port=free_port())
    _, stderr = worker.communicate()
    assert worker.returncode == 1
    assert "error: worker 0 of 2 did not come to 127.0.0.1:" in stderr


def test_workers_of_different_configs_do_not_work_together(start: Start, tmp_path: Path) -> None:
    port = free_port()
    workers = [start(f"seed={rank}", rank=rank, count=2, port=port) for rank in (0, 1)]
    for rank, worker in enumerate(workers):
        _, stderr = worker.communicate()
        assert worker.returncode == 1
        assert f"error: the config or the weights of worker {1 - rank} differs from worker {rank}'s" in stderr
    assert not list(tmp_path.rglob("shard-*"))


def test_a_second_run_in_the_same_folder_is_refused_and_harms_nothing(start: Start, tmp_path: Path) -> None:
    first = start(*LONG)
    wait_for_shards(tmp_path / "here" / "samples", first)
    first.send_signal(signal.SIGSTOP)  # so that it is surely still there
    second = start(*LONG)
    _, stderr = second.communicate()
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert "here: another run is at work in this folder" in stderr.splitlines()[-1]
    first.communicate()
    assert first.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.nightly)])
def test_a_signal_to_stop_is_obeyed_after_the_shard_in_hand(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    first, shards = start(*LONG), tmp_path / "here" / "samples"
    wait_for_shards(shards, first)
    first.send_signal(number)
    _, stderr = first.communicate()
    assert first.returncode == 143
    expected = f"error: stopped by {number.name} after the shard in hand; the same command goes on from there"
    assert stderr.splitlines()[-1].endswith(expected)
    assert "Traceback" not in stderr
    kept = shards_of(shards)
    assert 0 < len(kept) < 40
    made = {name: (shards / name).stat().st_mtime_ns for name in kept}
    again = start(*LONG)
    again.communicate()
    assert again.returncode == 0
    assert len(shards_of(shards)) == 40
    assert {name: (shards / name).stat().st_mtime_ns for name in kept} == made


FORKED = """
import os, sys, signal, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
from generations import KEEP, generation, random_model
from goc.sampling.generate import generate
from goc.sampling.shards import SampleSet
from goc.sampling.workers import Workers
job = generation(random_model())
while line := sys.stdin.readline():  # a folder a round: two workers start, and their numbers are told
    folder = Path(line.strip())
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            made = generate(job, SampleSet(folder, 2000, 20), KEEP, Workers(rank, 2))
            (folder / f"made-{{os.getpid()}}").write_text(str(made))
            os._exit(0)
        children.append(child)
    print(*children, flush=True)
    for child in children:
        os.waitpid(child, 0)
    print("ended", flush=True)
"""


def kill(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("kills", [6, pytest.param(25, marks=pytest.mark.nightly)])
def test_kills_at_random_moments_change_no_byte_and_cost_only_the_shards_in_hand(tmp_path: Path, kills: int) -> None:
    """Two workers, 2,000 samples in 100 shards; one of the two, or both, are killed in every round."""
    script = FORKED.format(tests=[str(REPOSITORY / "tests")])

    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=run_environment(),
    )
    assert parent.stdin is not None
    assert parent.stdout is not None

    def round_in(folder: Path) -> list[int]:
        parent.stdin.write(f"{folder}\n")
        parent.stdin.flush()
        return list(map(int, parent.stdout.readline().split()))

    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    for one in (undisturbed, folder):
        one.mkdir()
    round_in(undisturbed)
    parent.stdout.readline()
    expected = shards_of(undisturbed)
    assert len(expected) == 100

    rng = random.Random(0)
    times: dict[str, int] = {}
    for _ in range(kills):
        before = len(shards_of(folder))
        children = round_in(folder)
        goal = before + rng.randrange(4)  # some rounds end before anything is finished
        while len(list(folder.glob("shard-*"))) < goal:
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.02)
        kill(children if rng.random() < 0.5 else rng.sample(children, 1))
        # a worker that was spared goes on by itself, so it is stopped too, once it has taken another shard
        after = len(list(folder.glob("shard-*")))
        deadline = time.monotonic() + 0.05
        while len(list(folder.glob("shard-*"))) == after and time.monotonic() < deadline:
            time.sleep(0.0005)
        kill(children)
        parent.stdout.readline()
        for path in folder.glob("shard-*"):
            assert times.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns  # never made again
    assert 0 < len(times) < 100
    round_in(folder)
    parent.stdout.readline()
    parent.communicate()
    assert shards_of(folder) == expected
    assert all((folder / name).stat().st_mtime_ns == made for name, made in times.items())


def test_places_are_read_from_torchrun_and_from_srun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "1234"}
    assert place(torchrun) == Place(3, 8, 1, "node7", 1234)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node7\necho node8\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    srun = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "40017"}
    assert place({**srun, "SLURM_STEP_NODELIST": "node[7-8]"}) == Place(3, 4, 1, "node7", 20017)
    assert place({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None  # a batch script around them
    assert place({}) is None


def test_a_process_by_itself_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    alone = join(1e-9)
    assert alone.leads
    alone.agree("anything", "value")
