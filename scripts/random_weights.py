"""`python scripts/random_weights.py ...`, which is `goc random-weights ...`."""

import sys

from goc.cli.random_weights import main
from goc.system.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
