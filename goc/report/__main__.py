"""`python -m goc.report PATH...`, and `python -m goc.report compare RUN RUN`."""

import sys

from goc.report import compare, study
from goc.system.command import run_command


def main() -> int:
    """What the command line asks for."""
    return compare.main(sys.argv[2:]) if sys.argv[1:2] == ["compare"] else study.main()


if __name__ == "__main__":
    sys.exit(run_command(main))
