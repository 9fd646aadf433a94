"""`python scripts/train_weights.py ...`, which is `goc train weights ...`."""

import sys

from goc.system.command import run_command
from goc.train.weights import main

if __name__ == "__main__":
    sys.exit(run_command(main))
