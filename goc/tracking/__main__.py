"""Logs finished runs below some folders, and the summary of a study, to Weights & Biases: python -m goc.tracking."""

import os
import sys
from dataclasses import fields
from pathlib import Path

from goc.config import WandbConfig
from goc.config.settings import WANDB_MODES
from goc.config.validation import check_wandb
from goc.report.collect import tell
from goc.report.results import RESULT_FILE, load_result
from goc.report.text import printable
from goc.system.arguments import command_parser
from goc.system.command import run_command
from goc.system.errors import GocError, one_line
from goc.system.plugins import load_plugins


def run_folders(paths: list[Path]) -> list[Path]:
    """Folders of all finished runs below the paths, each once; a line on stderr for each one that is damaged.

    Raises GocError if there is no finished run below one of the paths.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        runs = []
        for folder in sorted(file.parent for file in path.rglob(RESULT_FILE)):
            try:
                load_result(folder)
            except ValueError as error:
                tell([(printable(str(folder)), str(error))])
            else:
                runs.append(folder)
        if not runs:
            raise GocError(f"no finished run below {path}")
        folders.update(dict.fromkeys(runs))
    return list(folders)


def main(arguments: list[str] | None = None) -> int:
    """Command line: log finished runs, and the summary of a study, to Weights & Biases."""
    parser = command_parser(__doc__, "goc track")
    parser.add_argument("paths", nargs="*", type=Path, help="folders that hold runs, at any depth")
    parser.add_argument("--summary", type=Path, metavar="FOLDER", help="a study: log its table, curves and files")
    parser.add_argument("--mode", choices=WANDB_MODES)
    texts = {field.name: field.metadata["help"] for field in fields(WandbConfig)}
    for name in ("project", "entity", "group"):
        parser.add_argument(f"--{name}", default=getattr(WandbConfig, name), help=texts[name])
    options = parser.parse_args(arguments)
    load_plugins()  # whose metrics have columns
    if not options.paths and options.summary is None:
        parser.error("name folders, or a --summary")
    settings = WandbConfig(options.project, options.entity, options.group, options.mode)
    if settings.mode is None and os.environ.get("WANDB_MODE") == "disabled":
        print("not tracked: WANDB_MODE=disabled")
        return 0
    os.environ.setdefault("WANDB_SILENT", "true")  # what it would say is not about these runs
    check_wandb(settings)
    folders = run_folders(options.paths)
    # imported here, as it takes seconds that no run and no mistake should wait for
    from goc.tracking import wandb_log

    try:
        for folder in folders:
            print(wandb_log.log_run(settings, folder), flush=True)
        if options.summary is not None:
            print(wandb_log.log_summary(settings, options.summary), flush=True)
    except wandb_log.WandbError as error:
        raise GocError(one_line(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
