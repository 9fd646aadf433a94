"""What became of Slurm jobs, asked with squeue: submitit asks sacct, which answers only where Slurm keeps accounts."""

from submitit.slurm.slurm import SlurmInfoWatcher

GONE = "no longer known to Slurm"
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", GONE)


class SqueueWatcher(SlurmInfoWatcher):
    """Knows the state of this process's jobs; without an answer from Slurm they count as still under way.

    squeue lists a job for MinJobAge (by default 300 s) after its end, and lists a requeued job as waiting.
    """

    def _make_command(self) -> list[str] | None:
        # one line per job of an array, whatever its state
        return ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """squeue's lines "12_0 RUNNING" as {"12_0": {"State": "RUNNING"}} for every job that has not ended before."""
        text = string if isinstance(string, str) else string.decode()
        states = dict(line.split() for line in text.splitlines())
        return {job: {"State": states.get(job, GONE)} for job in self._registered - self._finished}

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        return self.get_state(job_id, mode=mode) in ENDED
