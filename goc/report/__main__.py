"""`python -m goc.report PATH...`, and `... compare RUN RUN`, `... check RUN --min NAME=VALUE`."""

import sys

from goc.report import compare, gate, study
from goc.system.command import run_command

COMMANDS = {"compare": compare.main, "check": gate.main}


def main() -> int:
    """What the command line asks for."""
    command = COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    return study.main() if command is None else command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(run_command(main))
