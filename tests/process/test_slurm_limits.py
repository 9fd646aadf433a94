"""Sweeps that are more than a Slurm takes: of a cluster that is played by a few scripts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from application import Run
from checkout import SMALL

from hydra_plugins.goc_launchers import split

SBATCH = """#!/bin/sh
id=$(($(cat {folder}/last) + 1))
[ $id -lt {refuses_from} ] || {{ cat {folder}/reason >&2; exit 1; }}
echo $id >{folder}/last
echo "$id $(grep -o 'array=.*' "$1")" >>{folder}/submitted
echo "Submitted batch job $id"
"""
SWEEP = ("-m", "method=none", *SMALL, "hydra/launcher=slurm", "hydra.launcher.array_parallelism=2")

Cluster = Callable[..., Path]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Scripts in the place of Slurm's commands, none of whose jobs leaves a result; returns their folder."""
    from submitit.core.utils import UncompletedJobError
    from submitit.slurm.slurm import SlurmJob

    def lost(job: object) -> None:
        raise UncompletedJobError("nothing ran")

    def make(config: str, reason: str = "", refuses_from: int = 1000) -> Path:
        folder = tmp_path / "cluster"
        folder.mkdir()
        (folder / "last").write_text("6")
        (folder / "reason").write_text(reason)
        scripts = {
            "sbatch": SBATCH.format(folder=folder, refuses_from=refuses_from),
            "scontrol": config if config.startswith("#!") else f"#!/bin/sh\necho '{config}'\n",
            "scancel": f'#!/bin/sh\necho "$@" >{folder}/cancelled\n',
            "squeue": "#!/bin/sh\n",
            "srun": "#!/bin/sh\n",
        }
        for name, script in scripts.items():
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return folder

    monkeypatch.setattr(SlurmJob, "results", lost)
    return make


def error_line(stderr: str) -> str:
    (line,) = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in stderr
    return line


def test_a_sweep_is_split_where_an_array_would_be_too_large(cluster: Cluster, run_here: Run, tmp_path: Path) -> None:
    folder = cluster("SlurmUser = root\nMaxArraySize            = 3\nMaxJobCount = 10000")
    finished = run_here(*SWEEP, "seed=0,1,2,3", "name=study", "hydra.sweep.subdir=of_${seed}", check=False)
    assert finished.returncode == 1
    lines = (folder / "submitted").read_text().splitlines()
    assert lines == ["7 array=0-1%1", "8 array=0-1%1"]
    assert "waiting for Slurm job 7, 8, logs in" in finished.stdout + finished.stderr
    jobs = ["7_0", "7_1", "8_0", "8_1"]  # of the seeds in their order
    for seed, job in enumerate(jobs):
        reason = (tmp_path / "outputs" / "study" / f"of_{seed}" / "error.txt").read_text()
        assert reason.startswith(f"slurm job {job} ended without a result")
        assert (tmp_path / "outputs" / "study" / ".submitit" / job / f"{job}_submitted.pkl").exists()
    assert "4 failed:" in finished.stderr


@pytest.mark.parametrize("config", ["MaxArraySize = 3", "#!/bin/sh\nexit 1\n"])
def test_a_sweep_that_fits_is_one_array(cluster: Cluster, run_here: Run, config: str) -> None:
    folder = cluster(config)
    run_here(*SWEEP, "seed=0,1,2", check=False)
    assert (folder / "submitted").read_text() == "7 array=0-2%2\n"


def test_where_there_are_no_arrays_each_job_is_one(cluster: Cluster, run_here: Run) -> None:
    folder = cluster("MaxArraySize = 0")
    run_here(*SWEEP, "seed=0,1", check=False)
    assert (folder / "submitted").read_text() == "7 \n8 \n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "sbatch: error: invalid partition specified: nowhere\nsbatch: error: Batch job submission failed: Invalid "
            "partition name specified\n",
            "invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified",
        ),
        (
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
            "AssocMaxSubmitJobLimit; Batch job submission failed: Job violates accounting/QOS policy (job submit "
            "limit, user's size and/or time limits); hydra.sweeper.max_batch_size=N submits N jobs at a time",
        ),
        ("", "no reason given"),
    ],
)
def test_the_reason_for_a_refusal_is_one_line(cluster: Cluster, run_here: Run, said: str, shown: str) -> None:
    folder = cluster("MaxArraySize = 1001", said, refuses_from=7)
    finished = run_here(*SWEEP, "seed=0,1", check=False)
    assert finished.returncode == 1
    assert error_line(finished.stderr) == f"error: hydra/launcher=slurm: sbatch refuses: {shown}"
    assert "sbatch: error" not in finished.stderr
    assert not (folder / "cancelled").exists()


def test_if_a_later_array_is_refused_the_first_ones_are_cancelled(cluster: Cluster, run_here: Run) -> None:
    folder = cluster("MaxArraySize = 2", "sbatch: error: QOSMaxSubmitJobPerUserLimit\n", refuses_from=8)
    finished = run_here(*SWEEP, "seed=0,1,2,3", check=False)
    assert finished.returncode == 1
    assert "QOSMaxSubmitJobPerUserLimit; hydra.sweeper.max_batch_size=N" in error_line(finished.stderr)
    assert error_line(finished.stderr).endswith("(2 jobs that it took before are cancelled)")
    assert (folder / "cancelled").read_text() == "7\n"


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1001, 1002, 5000])
@pytest.mark.parametrize("most", [None, 0, 1, 3, 1001])
def test_parts_are_few_equal_and_in_order(count: int, most: int | None) -> None:
    parts = split(range(count), most)
    assert [item for part in parts for item in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    if most is None:
        assert len(parts) == 1
    else:
        assert max(sizes) <= max(1, most)
        assert (len(parts) - 1) * max(1, most) < count
