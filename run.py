"""Entry point: `python run.py` for one run, `python run.py -m key=a,b` for a sweep, `--help` for the settings."""

import sys

from goc.cli import main

if __name__ == "__main__":
    sys.exit(main())
