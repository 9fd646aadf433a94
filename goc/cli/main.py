"""The command `goc`: picks one of the project's commands by its name, and loads that one alone."""

import sys
from collections.abc import Callable
from importlib import import_module

from goc.system.command import run_command
from goc.system.errors import GocError, did_you_mean

# name -> where its main() is, and what it does; each takes its arguments from sys.argv
COMMANDS = {
    "run": ("goc.cli.application", "one run, with -m a sweep: goc run cache_ratio=0.5; --help has every setting"),
    "report": (
        "goc.report.__main__",
        "pictures and tables of finished runs: goc report outputs/NAME; goc report check RUN --min psnr_image=30",
    ),
    "compare": ("goc.report.compare", "two runs: differences with paired errors, and the samples that differ most"),
    "score": ("goc.cli.score", "images made elsewhere, measured as a run's: goc score FOLDER_OR_NPZ --name THEIRS"),
    "mask": ("goc.cli.mask", "a picture of a method's mask: goc mask method=fora --out mask.png"),
    "reference": ("goc.cli.reference", "statistics of real images, in one file that model.reference names"),
    "fetch": ("goc.cli.fetch", "download what the published ImageNet protocol needs, and check it"),
    "random-weights": ("goc.cli.random_weights", "random weights in the released formats, to try what needs those"),
    "train weights": ("goc.train.weights", "weights of predictor=learned, for a model, a sampler and a schedule"),
    "train front": ("goc.train.front", "schedules and weights of method=front, for several cache ratios at once"),
    "train timesteps": ("goc.train.timesteps", "the times of a solver's evaluations, for as many as you name"),
    "train router": ("goc.train.router", "a router of Learning-to-Cache, for a model and a number of steps"),
    "check": ("goc.check.command", "on a GPU: is it right there, and how fast; tables and a page"),
    "track": ("goc.tracking.__main__", "log finished runs to Weights & Biases"),
}
USAGE = "\n".join(
    [
        "usage: goc COMMAND ...     (goc COMMAND --help: its arguments)",
        "",
        "Benchmark feature caches on diffusion transformers.",
        "",
        *(f"  {name:<16}{text}" for name, (_, text) in COMMANDS.items()),
    ]
)


def main() -> int:
    """Run `goc COMMAND ...` as sys.argv says; returns the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "--version":
        from goc import __version__

        print(f"goc {__version__}")
        return 0
    words = 1 if name in COMMANDS else 2
    name = " ".join(sys.argv[1 : 1 + words])
    if name not in COMMANDS:
        raise GocError(f"goc {name}: must be one of {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}")
    sys.argv = [f"goc {name}", *sys.argv[1 + words :]]
    command: Callable[[], int | None] = import_module(COMMANDS[name][0]).main
    return command() or 0


def command() -> int:
    """The console script: `main`, with what all commands have around it."""
    return run_command(main)
