"""Entry point: `python run.py` for one run, `python run.py -m key=a,b` for a sweep, `--help` for the settings."""

import sys

from goc.cli import main
from goc.system.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
