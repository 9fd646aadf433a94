"""The processes that make one run together: started by torchrun, or as the tasks of one Slurm job.

They share the run's folder, where shards are dealt out (generate.py), and meet only to see that all are there and do
the same. For that a store of torch.distributed is enough; no tensor is ever exchanged, so there is no process group
(gloo, nccl) that a dying worker could leave the others hanging in.
"""

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from torch.distributed import PrefixStore, Store, TCPStore

from goc.system.errors import GocError

READING_S = 10.0  # that a leader with an error waits at most for the others to see it too
FIRST_PORT, PORTS = 20000, 20000  # a Slurm job meets at a port of its own, by its number


@dataclass(frozen=True)
class Workers:
    """This process's place among the workers of a run."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on its machine: the number of its GPU
    timeout_s: float = 0.0
    store: Store | None = None  # where they meet; None if alone

    @property
    def leads(self) -> bool:
        """Whether this is the one that evaluates, logs and writes results."""
        return self.rank == 0

    def agree(self, what: str, value: str) -> None:
        """Wait until every worker has come here with the same value.

        Raises GocError naming the workers that did not come in time, or came with another value.
        """
        if self.store is None:
            return
        meeting = f"meeting {self.store.add(f'meetings of {self.rank}', 1)}"  # a sweep has one for each job
        self.store.set(f"{meeting}/{self.rank}", value)
        patience, missing, others = timedelta(seconds=self.timeout_s), [], []
        for rank in range(self.count):
            try:
                self.store.wait([f"{meeting}/{rank}"], patience)
            except RuntimeError:
                missing.append(rank)
                patience = timedelta(seconds=1)  # the rest have had their time as well
            else:
                if self.store.get(f"{meeting}/{rank}") != value.encode():
                    others.append(rank)
        self.store.set(f"{meeting}/read by {self.rank}", "")
        if self.leads and (missing or others):  # its store ends with it, so the others are let read first
            came = [f"{meeting}/read by {rank}" for rank in range(self.count) if rank not in missing]
            with contextlib.suppress(RuntimeError):
                self.store.wait(came, timedelta(seconds=READING_S))
        if missing:
            raise GocError(
                f"worker {_listed(missing)} of {self.count} did not come within worker_timeout_s={self.timeout_s:g}"
            )
        if others:
            raise GocError(f"{what} of worker {_listed(others)} differs from worker {self.rank}'s; start them alike")


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))


@dataclass(frozen=True)
class Place:
    """A worker's place and where its leader is met, as its environment tells."""

    rank: int
    count: int
    local_rank: int
    address: str
    port: int
    attempt: str = "0"  # of torchrun, whose store outlives a restart
    hosted: bool = False  # torchrun's agent runs the store itself


def place(environment: Mapping[str, str]) -> Place | None:
    """This process's place by torchrun's or srun's variables; None if it works alone."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, count, local_rank = (int(environment.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Place(
            rank,
            count,
            local_rank,
            environment.get("MASTER_ADDR", "127.0.0.1"),
            int(environment.get("MASTER_PORT", "29500")),
            environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
            environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # srun's tasks have it, a batch script around them not
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
        rank, count, local_rank, job = (int(environment[name]) for name in names)
        nodes = ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]]
        first = subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()[0]
        return Place(rank, count, local_rank, first, FIRST_PORT + job % PORTS)
    return None


@cache
def _connect(worker: Place, timeout_s: float) -> Store:
    """The store where the workers of this process's job meet, one connection a process."""
    patience = timedelta(seconds=timeout_s)
    hosts = worker.rank == 0 and not worker.hosted
    try:
        store = TCPStore(worker.address, worker.port, None, hosts, patience, wait_for_workers=False)
    except RuntimeError as error:
        where = f"{worker.address}:{worker.port}"
        raise GocError(
            f"worker 0 of {worker.count} did not come to {where} within worker_timeout_s={timeout_s:g}"
        ) from error
    return PrefixStore(f"goc/{worker.attempt}", store)


def join(timeout_s: float) -> Workers:
    """This process's place, connected to the other workers if there are any.

    timeout_s: how long they are waited for. Raises GocError when the leader does not come.
    """
    worker = place(os.environ)
    if worker is None or worker.count == 1:
        return Workers()
    return Workers(worker.rank, worker.count, worker.local_rank, timeout_s, _connect(worker, timeout_s))
