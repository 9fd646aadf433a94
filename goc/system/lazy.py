"""Modules that are imported when they are first used, for code that often ends before it needs them."""

from importlib import import_module
from typing import Any


class LazyModule:
    """Stands for the module of a name, and imports it at the first look at one of its attributes.

    It is not entered in sys.modules as importlib's LazyLoader is: whoever looks through all modules there, as inspect
    does, would set off the import at any moment.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
