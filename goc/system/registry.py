"""Registries: what can be chosen in a group, by name, open to the modules of other people (goc/system/plugins.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeVar

from goc.system.errors import ConfigError

T = TypeVar("T")
HOUSE = "goc"  # the package whose entries are built in
GIVING: set[str] = set()  # packages that have entered anything


def load_object(reference: str) -> Any:
    """What `module:object` names; its module is imported, and may load what is heavy. Raises ConfigError."""
    module, _, name = reference.partition(":")
    try:
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{reference}: cannot be loaded: {error}") from error


class Registry(Mapping[str, T]):
    """The entries of a group by name, in the order in which they were added.

    An entry is light: what computes is named as `module:object`, so that help, completion and errors in the settings
    load nothing heavy. Entries whose module is not of this package are those of plugins.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self._entries: dict[str, T] = {}
        self._modules: dict[str, str] = {}

    def add(self, name: str, entry: T, module: str) -> T:
        """Enter what `module` gives under a name; raises ConfigError for a name that cannot be typed, or is taken."""
        if not (name.isascii() and name.isidentifier()):
            raise ConfigError(f"{self.group}={name}: must be letters, digits and underscores ({module})")
        if self._modules.get(name, module) != module:
            raise ConfigError(f"{self.group}={name}: is there twice, in {self._modules[name]} and in {module}")
        self._entries[name], self._modules[name] = entry, module
        GIVING.add(module.partition(".")[0])
        return entry

    def plugin_of(self, name: str) -> str | None:
        """The package that an entry comes from; None: it is built in, or there is none of this name."""
        package = self._modules.get(name, HOUSE).partition(".")[0]
        return None if package == HOUSE else package

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Options(Registry[type[T]]):
    """A registry of settings classes: each is a dataclass whose field `name` has the option's name as its default."""

    def register(self, cls: type[Any]) -> type[Any]:
        """Enter a class, as a decorator above `@dataclass`."""
        return self.add(cls.name, cls, cls.__module__)
