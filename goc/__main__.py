"""`python -m goc COMMAND ...`, which is `goc COMMAND ...`."""

import sys

from goc.cli.main import command

if __name__ == "__main__":
    sys.exit(command())
