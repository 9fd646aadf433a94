"""Tracking of finished runs, in one CSV file for a study or in Weights & Biases; a run never fails because of it.

Trackers read the files that a run leaves, so what could not be tracked at a run's end can be at any time later:
`python -m goc.tracking FOLDER...` logs all runs below the folders to Weights & Biases.
"""

import argparse
import contextlib
import io
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import IO

import pandas as pd
from filelock import FileLock, Timeout

from goc.config import WANDB_MODES, Config, WandbConfig
from goc.errors import GocError
from goc.files import write_atomically
from goc.results import RESULT_FILE, read_result, table

TRACKED_FILE = "tracked.csv"  # in the study's folder
LOCK_TIMEOUT_S = 30.0

COMMAND = ("-m", "goc.tracking")
REPOSITORY = Path(__file__).parent.parent

log = logging.getLogger(__name__)


def track_run(config: Config, folder: Path) -> None:
    """Log the finished run in a folder with the config's tracker; what goes wrong there is one warning."""
    if config.tracker == "csv":
        try:
            track_in_csv(folder)
        except (GocError, OSError, Timeout) as error:
            log.warning("tracker=csv: %s is not tracked: %s", folder, error)
    elif config.tracker == "wandb":
        log_to_wandb(config.wandb, [str(folder)])


def track_study(config: Config, folder: Path) -> None:
    """Log the summary of the study in a folder, where the config's tracker has one; problems are one warning."""
    if config.tracker == "wandb":
        log_to_wandb(config.wandb, ["--summary", str(folder)])


def track_in_csv(folder: Path) -> Path:
    """Write a finished run's row of the results table to its study's tracked.csv, and return that file's path.

    The rows are in the order in which runs were tracked; a run that is there already has its row replaced. Raises
    GocError if the folder holds no finished run, or the file is no such table.
    """
    result = read_result(folder)
    if result is None:
        raise GocError(f"{folder}: holds no finished run")
    path = folder.parent / TRACKED_FILE
    with FileLock(folder.parent / f".{TRACKED_FILE}.lock", timeout=LOCK_TIMEOUT_S):
        row = table([result]).drop(columns="point")
        row.insert(0, "run", folder.name)
        rows = [_read_text(row.to_csv(index=False))]
        if path.exists():
            try:
                before = _read_text(path.read_text())
                rows.insert(0, before[before["run"] != folder.name])
            except (ValueError, KeyError) as error:  # of pandas' parsers, or no such column
                raise GocError(f"{path}: is no table of tracked runs; move it away") from error
        write_atomically(path, pd.concat(rows).to_csv(index=False).encode())
    return path


def _read_text(csv: str) -> pd.DataFrame:
    """A CSV table whose cells stay the text they are."""
    return pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)


def log_to_wandb(settings: WandbConfig, what: list[str]) -> None:
    """Have a process of its own log to Weights & Biases, for at most settings.timeout_s seconds.

    what: folders and options of this module's command line. A hanging server, a crash, or a missing account end in
    one warning, which names the command that logs the same later.
    """
    keys = [field.name for field in fields(settings) if field.name != "timeout_s"]
    options = [f"--{key}={value}" for key in keys if (value := getattr(settings, key)) is not None]
    command = [*COMMAND, *what, *options]
    with tempfile.TemporaryFile("w+") as output:
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
    environment = {**os.environ, "WANDB_SILENT": "true"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
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


def run_folders(paths: list[Path]) -> list[Path]:
    """Folders of all finished runs below the paths, each once; raises GocError if there is none below one of them."""
    folders: dict[Path, None] = {}
    for path in paths:
        found = sorted(file.parent for file in path.rglob(RESULT_FILE))
        if not found:
            raise GocError(f"no finished run below {path}")
        folders.update(dict.fromkeys(found))
    return list(folders)


def main(arguments: list[str] | None = None) -> int:
    """Command line: log finished runs, and the summary of a study, to Weights & Biases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="folders that hold runs, at any depth")
    parser.add_argument("--summary", type=Path, metavar="FOLDER", help="a study: log its table, curves and files")
    parser.add_argument("--mode", choices=WANDB_MODES)
    texts = {field.name: field.metadata["help"] for field in fields(WandbConfig)}
    for name in ("project", "entity", "group"):
        parser.add_argument(f"--{name}", default=getattr(WandbConfig, name), help=texts[name])
    options = parser.parse_args(arguments)
    if not options.paths and options.summary is None:
        parser.error("name folders, or a --summary")
    settings = WandbConfig(options.project, options.entity, options.group, options.mode)
    # imported here, as it takes seconds that no run should wait for
    from goc import wandb_log

    try:
        for folder in run_folders(options.paths):
            print(wandb_log.log_run(settings, folder), flush=True)
        if options.summary is not None:
            print(wandb_log.log_summary(settings, options.summary), flush=True)
    except (GocError, wandb_log.WandbError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
