"""`python -m goc.reference`, which is `goc reference`."""

import sys

from goc.cli.reference import main
from goc.system.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
