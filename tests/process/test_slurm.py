"""Sweeps on a real Slurm: the same numbers, and what happens to jobs that are requeued or killed.

scripts/slurm_local.sh starts a Slurm on one machine; CI does.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
from application import Run
from checkout import REPOSITORY, SMALL, only_result

from goc.system.files import python_path
from goc.system.slurm import SqueueWatcher, max_array_size
from hydra_plugins.goc_launchers import SlurmSweepLauncher

SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1")
# a job of many small shards, long enough to be met while it runs
LONG = ("method=none", "num_samples=400", "batch_size=4", "steps=10", "metrics=[isc]", "latency_repeats=0",
        "converged_samples=0")  # fmt: skip
PATIENCE = 300  # seconds


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def slurm_answers() -> bool:
    try:
        return "idle" in slurm("sinfo", "--states=idle,mixed,allocated", "--format=idle")
    except (OSError, subprocess.SubprocessError):
        return False


needs_slurm = pytest.mark.skipif(not slurm_answers(), reason="no Slurm answers sinfo: scripts/slurm_local.sh start")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Slurm's daemons")


def slurm_local(*arguments: str) -> "CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "GOC_SLURM_DIR"}
    script = REPOSITORY / "scripts" / "slurm_local.sh"
    return subprocess.run(
        [script, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


@needs_root
@pytest.mark.parametrize("action", ["start", "stop", "status"])
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o770, 0), (0o700, 1000)])
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path, action: str, mode: int, owner: int) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "slurm.conf").write_text("# made by scripts/slurm_local.sh\n")
    folder.chmod(mode)
    os.chown(folder, owner, -1)
    finished = slurm_local(action, str(folder))
    assert finished.returncode == 1
    assert f"slurm_local: {folder}: must be a folder of this user, that nobody else can write to" in finished.stderr
    assert (folder / "slurm.conf").exists()


@needs_root
def test_the_default_folder_is_where_only_root_can_make_one() -> None:
    finished = slurm_local("status")
    if finished.returncode == 0 or "apt-get" in finished.stderr:
        pytest.skip("a Slurm runs there, or none is installed")
    (folder,) = re.findall(r"not running in (\S+)\n", finished.stderr)
    above = Path(folder).parent.stat()
    assert above.st_uid == 0
    assert not above.st_mode & 0o022


def await_that(condition: Callable[[], bool], background: "Future[CompletedProcess[str]]") -> None:
    """Wait for a condition that a sweep in the background brings about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert not background.done(), background.result().stderr
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOC_SLURM_POLL_S", "1")


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def job_array(name: str) -> str:
    """Id of the sweep's job array, "" before it is there."""
    lines = slurm("squeue", "--me", "--noheader", "--format=%F", f"--name={name}").split()
    return lines[0] if lines else ""


def process(job: str) -> int:
    """Process id of a running job's Python."""
    number = slurm("squeue", "--array", "--noheader", "--format=%A", f"--jobs={job}").strip()
    rows = [line.split() for line in slurm("scontrol", "listpids", number).splitlines()]
    (pid,) = (int(pid) for pid, _, step, task, _ in rows if (step, task) == ("0", "0"))
    return pid


def shards(folder: Path) -> dict[Path, int]:
    """Finished shards and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("shard-*.safetensors")}


@needs_slurm
def test_a_sweep_on_slurm_gives_the_table_of_a_sweep_in_one_process(
    run_apart: Run, run_here: Run, tmp_path: Path
) -> None:
    sweep = ("-m", "method=reuse,goc", "cache_ratio=0.4", *SMALL)
    run_here(*sweep, "name=here", "cache_dir=here")
    run_apart(*sweep, "name=slurm", "cache_dir=slurm", *SLURM)
    here, there = (
        pd.read_csv(tmp_path / "outputs" / name / "tradeoff.csv", dtype=str)[["method", "cached", "fid", "mse"]]
        for name in ("here", "slurm")
    )
    assert list(here["method"]) == ["goc", "reuse"]
    pd.testing.assert_frame_equal(here, there)


@needs_slurm
def test_the_tasks_of_a_job_share_its_shards(run_apart: Run, run_here: Run, tmp_path: Path) -> None:
    sweep = ("-m", "method=goc", "cache_ratio=0.4", *SMALL, "num_samples=120")
    run_here(*sweep, "name=here", "cache_dir=here")
    run_apart(*sweep, "name=slurm", "cache_dir=slurm", *SLURM, "hydra.launcher.tasks_per_node=2")
    alone, together = (tmp_path / "outputs" / name for name in ("here", "slurm"))
    assert only_result(together)["workers"] == 2
    assert [path.read_bytes() for path in sorted(shards(alone))] == [p.read_bytes() for p in sorted(shards(together))]
    # of the same bytes; but in another process BLAS may round KID's float32 products otherwise
    assert only_result(together)["metrics"] == pytest.approx(only_result(alone)["metrics"], rel=1e-5)


@needs_slurm
def test_a_requeued_job_goes_on_from_its_finished_shards(
    run_apart: Run, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    sweep = background.submit(run_apart, "-m", *LONG, "name=requeued", *SLURM, check=False)
    await_that(lambda: len(shards(tmp_path)) >= 3, sweep)
    job = job_array("requeued")
    before = shards(tmp_path)
    slurm("scontrol", "requeue", job)
    assert sweep.result().returncode == 0, sweep.result().stderr
    assert "Restarts=1 " in slurm("scontrol", "show", "job", job)
    after = shards(tmp_path)
    assert len(after) == 100 > len(before)
    assert before.items() <= after.items()


@needs_slurm
def test_killed_jobs_do_not_take_the_others_with_them(
    run_apart: Run, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    sweep = background.submit(run_apart, "-m", "seed=0,1,2", *LONG, "name=killed", *SLURM, check=False)
    await_that(lambda: job_array("killed") != "", sweep)
    job = job_array("killed")

    def generating(index: int) -> bool:
        log = tmp_path / "outputs" / "killed" / ".submitit" / f"{job}_{index}" / f"{job}_{index}_0_log.err"
        return log.exists() and "img/s" in log.read_text()

    await_that(lambda: generating(0), sweep)
    slurm("scancel", f"{job}_0")
    await_that(lambda: generating(1), sweep)
    os.kill(process(f"{job}_1"), signal.SIGKILL)

    finished = sweep.result()
    assert finished.returncode == 1
    rows = pd.read_csv(tmp_path / "outputs" / "killed" / "tradeoff.csv")
    assert list(rows["seed"]) == [2]
    assert "2 failed:" in finished.stderr
    summary = finished.stderr.split("2 failed:")[1]
    assert f"slurm job {job}_0 ended without a result (CANCELLED)" in summary
    assert f"slurm job {job}_1 ended without a result (FAILED)" in summary
    named = [Path(path) for path in re.findall(r"\((\S*error\.txt)\)", summary)]
    assert len(named) == 2
    assert all((tmp_path / path).exists() for path in named)
    assert "Traceback" not in finished.stderr


@needs_slurm
def test_a_partition_that_is_not_there_is_named(run_apart: Run) -> None:
    finished = run_apart("-m", *LONG, "hydra.launcher.partition=nowhere", *SLURM, check=False)
    assert finished.returncode == 1
    assert "error: hydra/launcher=slurm: sbatch refuses: invalid partition specified: nowhere" in finished.stderr
    assert "Traceback" not in finished.stderr


@needs_slurm
def test_several_arrays_give_their_results_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts/slurm_local.sh lets an array have three jobs."""
    if (most := max_array_size()) is None or most > 9:
        pytest.skip("this Slurm's arrays are large")

    class Doubled(SlurmSweepLauncher):
        def __call__(self, number: int) -> int:
            return 2 * number

    monkeypatch.setenv("PYTHONPATH", python_path())
    launcher = Doubled(submitit_folder=str(tmp_path / "%j"), array_parallelism=9, timeout_min=5, cpus_per_task=1)
    jobs = launcher.submit(launcher.executor(), [(number,) for number in range(most + 1)])
    assert len({job.job_id.split("_")[0] for job in jobs}) == 2
    assert [job.result() for job in jobs] == [2 * number for number in range(most + 1)]


def watcher_of(*command: str) -> SqueueWatcher:
    """A watcher of the jobs 7_0 and 7_1 whom squeue gave the answer of a command."""

    class Answered(SqueueWatcher):
        def _make_command(self) -> list[str]:
            return list(command)

    watcher = Answered()
    for job in ("7_0", "7_1"):
        watcher.register_job(job)
    watcher.update()
    return watcher


def test_a_requeued_or_suspended_job_counts_as_under_way() -> None:
    watcher = watcher_of("printf", "7_0 PENDING\n7_1 SUSPENDED\n9 FAILED\n")
    assert not watcher.is_done("7_0", mode="cache")
    assert not watcher.is_done("7_1", mode="cache")


def test_a_job_that_slurm_has_forgotten_has_ended() -> None:
    watcher = watcher_of("printf", "7_1 RUNNING\n")
    assert watcher.is_done("7_0", mode="cache")
    assert "no longer known" in watcher.get_state("7_0", mode="cache")
    assert not watcher.is_done("7_1", mode="cache")


def test_jobs_are_under_way_as_long_as_slurm_does_not_answer() -> None:
    assert not watcher_of("false").is_done("7_0", mode="cache")
