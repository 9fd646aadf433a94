"""What Slurm says: how large an array may be, why it takes no job, and what became of those that it took.

The last is asked with squeue: submitit asks sacct, which answers only where Slurm keeps accounts.
"""

import re
import subprocess

from submitit.slurm.slurm import SlurmInfoWatcher

ANSWER_S = 30  # seconds that a command of Slurm's may take
SAID = re.compile(r"^sbatch: (error: )?", re.M)
TOO_MANY = re.compile(r"MaxSubmit|submit limit|MaxJobCount|MaxJobs")  # in sbatch's reasons
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


def max_array_size() -> int | None:
    """How many jobs an array may have (0: there are no arrays); None: Slurm does not say."""
    command = ["scontrol", "show", "config"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWER_S).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.M)
    return int(limit[1]) if limit else None


def refusal(said: str) -> str:
    """sbatch's reason on one line, from what it wrote on stderr; with what to do where it takes no more jobs."""
    reason = "; ".join(filter(None, map(str.strip, SAID.sub("", said).splitlines()))) or "no reason given"
    more = "; hydra.sweeper.max_batch_size=N submits N jobs at a time" if TOO_MANY.search(reason) else ""
    return f"sbatch refuses: {reason}{more}"


def cancel(jobs: set[str]) -> None:
    """Cancel jobs, or whole arrays, as far as Slurm answers."""
    if jobs:
        subprocess.run(["scancel", *sorted(jobs)], capture_output=True, check=False, timeout=ANSWER_S)
