"""Knows when a pipeline's call begins and ends, whatever ends it."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


def enter_in_calls(pipe: Any, context: Callable[[], AbstractContextManager[Any]]) -> None:
    """Have every call of this one pipeline run inside of a new context.

    Python looks `__call__` up in the class, so the object gets one of its own, with the name and module of its class.
    """
    cls = type(pipe)

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with context():
            return cls.__call__(self, *args, **kwargs)

    own = {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__, "__qualname__": cls.__qualname__}
    pipe.__class__ = type(cls.__name__, (cls,), own)


def leave_calls_alone(pipe: Any) -> None:
    """Undo `enter_in_calls`."""
    pipe.__class__ = type(pipe).__base__
