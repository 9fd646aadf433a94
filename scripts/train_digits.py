"""`python scripts/train_digits.py ...`, which is `python scripts/train_embedded.py digits ...`."""

import sys

import train_embedded

from goc.system.command import run_command


def main() -> int:
    """Train what is asked for of the digits; returns the exit code."""
    return train_embedded.main(["digits", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run_command(main))
