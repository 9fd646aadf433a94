"""hydra/launcher=local: a sweep's jobs side by side on this machine."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from application import Run
from checkout import SMALL

LOCAL = "hydra/launcher=local"


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in listed.stdout.split()]


@pytest.mark.nightly
def test_a_local_sweep_gives_the_table_of_a_sweep_in_one_process(run_here: Run, tmp_path: Path) -> None:
    sweep = ("-m", "method=reuse,goc", "cache_ratio=0.4", "latency_repeats=0", *SMALL)
    run_here(*sweep, "name=here", "cache_dir=here")
    run_here(*sweep, "name=local", "cache_dir=local", LOCAL)
    here, there = (pd.read_csv(tmp_path / "outputs" / name / "tradeoff.csv", dtype=str) for name in ("here", "local"))
    assert list(here["method"]) == ["goc", "reuse"]
    pd.testing.assert_frame_equal(here, there)


def test_without_slurm_the_line_says_what_else_there_is(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    finished = run_here("-m", "method=none", "hydra/launcher=slurm", *SMALL, check=False)
    assert finished.returncode == 1
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error:")]
    assert "hydra/launcher=slurm: " in line
    assert "without a cluster: hydra/launcher=local" in line
    assert "Traceback" not in finished.stderr


def test_a_killed_local_job_does_not_take_the_others_with_it(run_apart: Run, tmp_path: Path) -> None:
    sweep = ("-m", "seed=0,1", "method=none", "latency_repeats=0", "name=killed", LOCAL, *SMALL)
    folder = tmp_path / "outputs" / "killed" / ".submitit"
    end = time.monotonic() + 300
    with ThreadPoolExecutor() as pool:
        background = pool.submit(run_apart, *sweep, check=False)
        pids: list[int] = []
        while not pids:  # the first job's controller, whose pid names its folder, has started its process
            assert not background.done(), background.result().stderr
            assert time.monotonic() < end
            controllers = [int(job.name) for job in folder.glob("*") if job.name.isdigit()]
            pids = [pid for controller in controllers[:1] for pid in children(controller)]
            time.sleep(0.05)
        os.kill(pids[0], signal.SIGKILL)
        finished = background.result()
    assert finished.returncode == 1
    assert len(pd.read_csv(tmp_path / "outputs" / "killed" / "tradeoff.csv")) == 1
    assert "1 failed:" in finished.stderr
    assert "ended without a result" in finished.stderr
    assert "Traceback" not in finished.stderr
