"""Other people's methods and metrics: installed packages with the entry point group `goc.plugins`, or named modules.

A module enters what it gives into the registries when it is imported (goc/plugin.py has their names). Which ones are
named, plugins=[my_module], other processes learn by the environment: workers, Slurm's jobs, what logs to W&B.
"""

import importlib
import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata, util
from pathlib import Path

from goc.system.errors import ConfigError, one_line
from goc.system.files import content_key, file_sha256
from goc.system.registry import GIVING

GROUP = "goc.plugins"
NAMED = "GOC_PLUGINS"  # modules, separated by commas
SOURCES = "*.py"


def load_plugins(named: Iterable[str] = ()) -> None:
    """Import all installed plugins, those that the environment names, and `named` ones, which it names from now on.

    A module is looked for where Python looks, and in the working folder. Raises ConfigError, one line, for one that
    cannot be imported.
    """
    _load_installed()
    before = [name for name in os.environ.get(NAMED, "").split(",") if name]
    for name in dict.fromkeys([*before, *named]):
        if name not in sys.modules:
            _import(name, f"plugins=[{name}]")
        if name.partition(".")[0] not in GIVING:
            raise ConfigError(f"plugins=[{name}]: enters no method, solver or metric (see goc/plugin.py)")
    if wanted := ",".join(dict.fromkeys([*before, *named])):
        os.environ[NAMED] = wanted


@cache
def _load_installed() -> None:
    for entry in metadata.entry_points(group=GROUP):
        _import(entry.module, f"plugin {entry.name}")


def _import(name: str, what: str) -> None:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{what}: must be the name of a module, as in plugins=[my_module]")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path and util.find_spec(name.partition(".")[0]) is None:
        sys.path.append(here)
        importlib.invalidate_caches()
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), here]))  # of others
    try:
        importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{what}: cannot be imported: {one_line(error)}") from error


@cache
def source_of(package: str) -> str:
    """What a plugin is known by in the identity of what it takes part in: its version, if any, and all its sources."""
    if package not in sys.modules:
        _import(package, package)
    module = sys.modules[package]
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    files = sorted(path for folder in folders for path in folder.rglob(SOURCES))
    if not files and module.__file__:
        files = [Path(module.__file__)]
    hashes = [(path.name, file_sha256(path)) for path in files]
    distributions = metadata.packages_distributions().get(package, ())
    version = metadata.version(distributions[0]) if distributions else "0"
    return f"{version}-{content_key(hashes)}"
