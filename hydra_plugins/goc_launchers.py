"""Hydra's hydra/launcher=slurm and =local: submitit's launchers, but one job that is killed does not end the sweep.

Hydra takes launchers from the package hydra_plugins only. Unlike hydra_submitit_launcher's, these wait for every job,
leave the reason for a killed one where SweepReport finds it, and need no Slurm accounting.
"""

import contextlib
import io
import itertools
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import OmegaConf

log = logging.getLogger(__name__)


class SweepLauncher(BaseSubmititLauncher):
    """Submits a sweep's jobs, waits for all of them, and records those that ended without a result."""

    HINT = ""  # what else to do when jobs cannot be submitted

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """One return per job, in order; raises GocError if they cannot be submitted."""
        # imported here, as Hydra imports all its plugins at every start
        from submitit.core.utils import UncompletedJobError

        from goc.system.errors import GocError
        from goc.system.files import python_path

        calls = []
        for index, overrides in enumerate(job_overrides, initial_job_idx):
            log.info("\t#%d : %s", index, " ".join(filter_overrides(overrides)))
            calls.append((list(overrides), "hydra.sweep.dir", index, str(index), Singleton.get_state()))
        os.environ["PYTHONPATH"] = python_path()  # of the jobs
        try:
            jobs = self.submit(self.executor(), calls)
        except (RuntimeError, FileNotFoundError) as error:
            raise GocError(f"hydra/launcher={self._EXECUTOR}: {error}{self.HINT}") from error

        returns = []
        for job, overrides in zip(jobs, job_overrides, strict=True):
            try:
                returns.append(job.results()[0])  # of the task that leads
            except UncompletedJobError as error:
                returns.append(self.lost(job, overrides, error))
        return returns

    def executor(self) -> Any:
        """submitit's executor with this launcher's settings."""
        import submitit

        prefix = f"{self._EXECUTOR}_"
        common = OmegaConf.structured(BaseQueueConf).keys()
        settings = {name if name in common else prefix + name: value for name, value in self.params.items()}
        retries = {prefix + "max_num_timeout": settings.pop(prefix + "max_num_timeout", 0)}
        executor = submitit.AutoExecutor(settings.pop("submitit_folder"), cluster=self._EXECUTOR, **retries)
        executor.update_parameters(**settings)
        return executor

    def submit(self, executor: Any, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Hand the calls of this object over to submitit; returns its jobs in their order."""
        raise NotImplementedError

    def lost(self, job: Any, overrides: Sequence[str], error: Exception) -> JobReturn:
        """Leave a reason in the folder of a job that left none itself; the sweep goes on as after a failed run."""
        from goc.cli.application import record_failure
        from goc.system.errors import GocError

        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
        reason = GocError(
            f"{self._EXECUTOR} job {job.job_id} ended without a result ({job.state}), see {job.paths.stderr}"
        )
        record_failure(folder, reason, str(error))
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)


class SlurmSweepLauncher(SweepLauncher):
    """Runs a sweep as one Slurm job array, or as several where it has more jobs than an array may."""

    _EXECUTOR = "slurm"
    HINT = "; without a cluster: hydra/launcher=local"

    def submit(self, executor: Any, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        from submitit.core.utils import FailedJobError
        from submitit.slurm.slurm import SlurmJob

        from goc.system.errors import GocError
        from goc.system.slurm import SqueueWatcher, cancel, max_array_size, refusal

        seconds = int(os.environ.get("GOC_SLURM_POLL_S", "30"))
        SlurmJob.watcher = SqueueWatcher(delay_s=seconds)
        # after a job's end, for its result to appear on a network's disk
        SlurmJob._results_timeout_s = min(seconds, SlurmJob._results_timeout_s)
        arrays = split(calls, max_array_size())
        # which array_parallelism is of all together
        executor.update_parameters(slurm_array_parallelism=max(1, self.params["array_parallelism"] // len(arrays)))
        jobs: list[Any] = []

        def submitted() -> set[str]:
            return {job.job_id.split("_")[0] for job in jobs}

        try:
            for array in arrays:
                with contextlib.redirect_stderr(io.StringIO()):  # where submitit repeats what sbatch says
                    jobs += executor.map_array(self, *zip(*array, strict=True))
        except FailedJobError as error:
            cancel(submitted())
            gone = f" ({len(jobs)} jobs that it took before are cancelled)" if jobs else ""
            raise GocError(f"hydra/launcher={self._EXECUTOR}: {refusal(str(error))}{gone}") from error
        ids = ", ".join(sorted(submitted(), key=int))
        log.info("waiting for Slurm job %s, logs in %s", ids, jobs[0].paths.folder.parent)
        return jobs


def split(calls: Sequence[Any], most: int | None) -> list[Sequence[Any]]:
    """As few parts as may be, as equal as may be, of at most `most` calls (0: one; None: any number)."""
    parts = 1 if most is None else -(-len(calls) // max(1, most))
    bounds = [len(calls) * part // parts for part in range(parts + 1)]
    return [calls[first:last] for first, last in itertools.pairwise(bounds)]


class LocalSweepLauncher(SweepLauncher):
    """Runs a sweep's jobs side by side on this machine, each with `cpus_per_task` threads, as many as have a core."""

    _EXECUTOR = "local"

    def submit(self, executor: Any, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        from submitit.local.local import LocalJob

        LocalJob._results_timeout_s = 1  # after a job's end: its result is on this machine's disk
        threads = self.params["cpus_per_task"]
        # read when a process loads its libraries: too late for Hydra's job.env_set, which acts in the running job
        os.environ["OMP_NUM_THREADS"] = str(threads)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        at_once = max(1, cores // threads)
        jobs: list[Any] = []
        for call in calls:
            while sum(not job.done() for job in jobs) >= at_once:
                time.sleep(0.2)
            jobs.append(executor.submit(self, *call))
        return jobs
