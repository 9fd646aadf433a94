"""`python run.py ...`, which is `goc run ...`: one run, with -m key=a,b a sweep, with --help every setting."""

import sys

from goc.cli.application import main
from goc.system.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
