"""Tells a run's tracker that it has finished; a run never fails because of it.

Trackers read the files that a run leaves, so what could not be tracked at a run's end can be at any time later:
`python -m goc.tracking FOLDER...` logs all runs below the folders to Weights & Biases.
"""

import logging
from pathlib import Path

from filelock import Timeout

from goc.config import Output
from goc.system.errors import GocError
from goc.tracking.csv_file import track_in_csv
from goc.tracking.wandb_process import log_to_wandb

log = logging.getLogger(__name__)


def track_run(output: Output, folder: Path) -> None:
    """Log the finished run in a folder with the output's tracker; what goes wrong there is one warning."""
    if output.tracker == "csv":
        try:
            track_in_csv(folder)
        except (GocError, OSError, Timeout) as error:
            log.warning("tracker=csv: %s is not tracked: %s", folder, error)
    elif output.tracker == "wandb":
        _log_to_wandb(output, [str(folder)])


def track_study(output: Output, folder: Path) -> None:
    """Log the summary of the study in a folder, where the output's tracker has one; problems are one warning."""
    if output.tracker == "wandb":
        _log_to_wandb(output, ["--summary", str(folder)])


def _log_to_wandb(output: Output, what: list[str]) -> None:
    try:
        log_to_wandb(output.wandb, what)
    except OSError as error:  # no process can be started, or no folder is there for temporary files
        log.warning("tracker=wandb: not logged: %s", error)
