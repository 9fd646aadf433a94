"""`python scripts/claims.py ...`, which is `python experiments/digits_ratios.py ...`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "digits_ratios.py"), run_name="__main__")
