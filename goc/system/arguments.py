"""Options of the commands beside run.py: numbers and files that cannot be used are refused before any work is done."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from goc.system.errors import ConfigError

MOST = 1_000_000_000


def command_parser(description: str | None, prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command whose module's docstring is its help, line by line."""
    return argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def check_numbers(options: argparse.Namespace, least: Mapping[str, float]) -> None:
    """Raise ConfigError for the first option below its least value, or far above any that makes sense."""
    for name, low in least.items():
        value = getattr(options, name)
        if not low <= value <= MOST:
            raise ConfigError(f"--{name.replace('_', '-')}={value}: must be at least {low:g} and at most {MOST}")


def check_out(path: Path, suffixes: Sequence[str] = (), option: str = "out") -> None:
    """Raise ConfigError for a file that cannot be written: a folder, one below a file, or one of another suffix."""
    if path.is_dir():
        raise ConfigError(f"--{option}={path}: must be a file, not a folder")
    if suffixes and path.suffix.lower().removeprefix(".") not in suffixes:
        raise ConfigError(f"--{option}={path}: must end in .{', .'.join(suffixes)}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ConfigError(f"--{option}={path}: {above} is a file, not a folder")
