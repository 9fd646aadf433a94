"""Full and cached steps of the project's methods, of a textbook implementation and of peers, as one table.

Called by `goc check` for each of its cases, and by scripts/benchmark.py steps.
"""

import argparse
from collections.abc import Sequence

import pandas as pd
import torch

from goc.check import step_times
from goc.check.contenders import Contender, Entry, Workload, project_contenders
from goc.check.peers import peers
from goc.check.random_model import random_model
from goc.system.arguments import check_numbers
from goc.system.errors import ConfigError
from goc.system.precision import PRECISIONS


def model_options(subject: str) -> argparse.ArgumentParser:
    """The options that name a model and its guidance."""
    parser = argparse.ArgumentParser(prog=f"benchmark.py {subject}")
    parser.add_argument("--model", default="DiT-XL/2", help="a published architecture (default DiT-XL/2)")
    parser.add_argument("--image-size", type=int, default=256, help="pixels a side (default %(default)s)")
    parser.add_argument("--cfg-scale", type=float, default=1.5, help="1 is without guidance (default %(default)s)")
    return parser


def check_counts(options: argparse.Namespace) -> None:
    """Raise ConfigError on too small a batch, or too few repeats or steps."""
    check_numbers(options, {"batch": 1, "repeats": 1})
    if options.steps < 4:
        raise ConfigError(f"--steps {options.steps}: must be at least 4, so that every method caches a step")


def workload(options: argparse.Namespace) -> Workload:
    """The model of the options with random weights, and what is to be done with it; raises ConfigError."""
    check_counts(options)
    model, device, dtype = random_model(options.model, options.image_size, options.precision, options.compile)
    return Workload(model, options.batch, options.cfg_scale, options.steps, device, dtype, options.compile)


def steps(settings: list[str]) -> pd.DataFrame:
    """Full and cached steps of the project's methods, of a textbook implementation and of peers, taking turns."""
    parser = model_options("steps")
    parser.add_argument("--batch", type=int, default=2, help="images (default %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="as run.py's (default fp32)")
    parser.add_argument("--steps", type=int, default=8, help="of a trajectory (default %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed trajectories of each method (default %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the project's and the textbook's branches")
    parser.add_argument("--rows", nargs="+", help="only these, and what they are measured against (default all)")
    options = parser.parse_args(settings)
    work = workload(options)
    return step_times.table(chosen([*project_contenders(work), *peers(work)], options.rows), work, options.repeats)


def chosen(entries: Sequence[Entry], rows: list[str] | None) -> Sequence[Entry]:
    """The entries of the table that are named, with their baselines; None: all. Raises ConfigError for other names."""
    by_name = {step_times.name_of(entry): entry for entry in entries}
    if rows is None:
        return entries
    for row in rows:
        if row not in by_name:
            raise ConfigError(f"--rows {row}: must be of {', '.join(by_name)}")
    wanted = {*rows, *(entry.baseline for row in rows if isinstance(entry := by_name[row], Contender))}
    return [entry for name, entry in by_name.items() if name in wanted]


def machine() -> str:
    """Where this was measured: the GPU, or the CPU threads, and torch's version."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"{device}, torch {torch.__version__}"
