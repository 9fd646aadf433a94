"""`python scripts/train_router.py ...`, which is `goc train router ...`."""

import sys

from goc.system.command import run_command
from goc.train.router import main

if __name__ == "__main__":
    sys.exit(run_command(main))
