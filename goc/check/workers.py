"""Whether one and two workers on one card make the same samples, byte by byte."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from goc.check.setting import Outcome, Setting, Table
from goc.system.errors import GocError
from goc.system.files import python_path

COUNTS = (1, 2)
# the embedded model, half cached; 8 shards, which two workers share
RUN = ("method=goc", "cache_ratio=0.5", "num_samples=64", "batch_size=8", "steps=10", "latency_repeats=0", "metrics=[]",
       "distance_samples=0", "converged_samples=0", "calibration_samples=8")  # fmt: skip


@contextlib.contextmanager
def started(command: Sequence[str], logs: Sequence[Path]) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """A command as one worker for each log (of stderr), told its place as torchrun does; none is left at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = []
    try:
        for rank, log in enumerate(logs):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(logs), "MASTER_PORT": port}
            environment = {
                **os.environ,
                "PYTHONPATH": python_path(),
                **{name: str(value) for name, value in place.items()},
            }
            with log.open("wb") as file:
                workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file))
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def shards(folder: Path, settings: Sequence[str], count: int) -> dict[str, Path]:
    """The files of samples that `count` workers make in a folder, by name; raises GocError if one of them fails."""
    folders = [f"hydra.run.dir={folder}/run", f"cache_dir={folder}/cache"]
    folder.mkdir(parents=True)
    logs = [folder / f"worker-{rank}.txt" for rank in range(count)]
    with started([sys.executable, "-m", "goc", "run", *RUN, *settings, *folders], logs) as workers:
        codes = [worker.wait() for worker in workers]
    for rank, (code, log) in enumerate(zip(codes, logs, strict=True)):
        if code:
            text = log.read_text(encoding="utf-8")
            print(text, file=sys.stderr)
            raise GocError(f"worker {rank} of {count}: exit code {code}: {(text.splitlines() or ['no message'])[-1]}")
    worked = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))["workers"]
    if worked != count:
        raise GocError(f"{count} workers were started, and {worked} worked together")
    return {path.name: path for path in (folder / "run" / "samples").glob("shard-*")}


def largest_difference(one: Path, other: Path) -> float:
    """Of the latents in two shards."""
    return (load_file(one)["latents"] - load_file(other)["latents"]).abs().max().item()


def compared(one: dict[str, Path], other: dict[str, Path]) -> dict[str, Any]:
    """How many files two folders have, how many are the same bytes, and how far the others' latents differ at most."""
    both = sorted(one.keys() & other.keys())
    unequal = [name for name in both if one[name].read_bytes() != other[name].read_bytes()]
    return {
        "shards": len(one.keys() | other.keys()),
        "equal": len(both) - len(unequal),
        "largest_difference": max((largest_difference(one[name], other[name]) for name in unequal), default=0.0),
    }


def check(setting: Setting) -> Outcome:
    """The embedded digits model by one worker and by two that share the device, in each precision of the setting."""
    rows = []
    for precision in setting.worker_precisions:
        with tempfile.TemporaryDirectory() as root:
            settings = [f"device={setting.device}", f"precision={precision}"]
            made = [shards(Path(root) / str(count), settings, count) for count in COUNTS]
            rows.append({"precision": precision, **compared(*made)})
    failures = [
        f"{row['precision']}: {row['equal']} of {row['shards']} files are equal; the latents of the others differ by "
        f"up to {row['largest_difference']:.3g}"
        for row in rows
        if row["equal"] < row["shards"] or not row["shards"]
    ]
    table = Table(
        "workers",
        "One and two workers on one device",
        f"goc run {' '.join(RUN)} device={setting.device}, as one process and as two that share the device: "
        "files of samples that have the same bytes. All must.",
        pd.DataFrame(rows),
        {
            "precision": "format",
            "shards": "files",
            "equal": "equal files ↑",
            "largest_difference": "largest difference of latents ↓",
        },
    )
    return Outcome(table, failures, [] if failures else ["Both make the same bytes."])
