"""`python -m goc.mask`, which is `goc mask`."""

import sys

from goc.cli.mask import main
from goc.system.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
