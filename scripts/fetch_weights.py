"""`python scripts/fetch_weights.py ...`, which is `goc fetch ...`."""

import sys

from goc.cli.fetch import main
from goc.system.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
