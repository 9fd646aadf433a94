"""`python scripts/gpu_check.py ...`, which is `goc check ...`."""

import sys

from goc.check.command import main
from goc.system.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
