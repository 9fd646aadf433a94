"""tracker=wandb: a process of its own logs to Weights & Biases, so that no server or crash can stop a run."""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import fields
from typing import IO

from goc.config import WandbConfig
from goc.system.files import python_path

COMMAND = ("-m", "goc.tracking")

log = logging.getLogger(__name__)


def log_to_wandb(settings: WandbConfig, what: list[str]) -> None:
    """Have a process of its own log to Weights & Biases, for at most settings.timeout_s seconds.

    what: folders and options of `python -m goc.tracking`. A hanging server, a crash, or a missing account end in
    one warning, which names the command that logs the same later.
    """
    keys = [field.name for field in fields(settings) if field.name != "timeout_s"]
    options = [f"--{key}={value}" for key in keys if (value := getattr(settings, key)) is not None]
    command = [*COMMAND, *what, *options]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        failure = _run_for([sys.executable, *command], output, settings.timeout_s)
        output.seek(0)
        last_line = (output.read().strip().splitlines() or ["it said nothing"])[-1]
    if failure is None:
        print(last_line, flush=True)
    else:
        reason = failure or last_line.removeprefix("error: ")
        log.warning("tracker=wandb: not logged: %s; to log it later: %s", reason, shlex.join(["python", *command]))


def _run_for(command: list[str], output: IO[str], timeout_s: float) -> str | None:
    """Run a command for at most that long; returns None, or why not: "" if it failed for a reason in its output."""
    environment = {**os.environ, "WANDB_SILENT": "true", "PYTHONPATH": python_path()}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # neither Ctrl-C nor a time limit leaves a part of it behind
    )
    try:
        return "" if process.wait(timeout_s) else None
    except subprocess.TimeoutExpired:
        return f"it took more than wandb.timeout_s={timeout_s:g} seconds"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
