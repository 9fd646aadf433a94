"""Knows when a pipeline's call begins and ends, whatever ends it."""

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any


def enter_in_calls(pipe: Any, context: Callable[[int | None], AbstractContextManager[Any]], attribute: str) -> None:
    """Have every call of this one pipeline run inside of a new context, which is given the number of samples.

    Python looks `__call__` up in the class, so the object gets one of its own, with the name and module of its class.
    A copy or a pickle of it is of its own class again, and lacks the attribute.
    """
    cls = type(pipe)

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with context(samples_asked(cls, args, kwargs)):
            return cls.__call__(self, *args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        _, _, state, *items = super(type(self), self).__reduce_ex__(max(2, protocol))
        return object_of, (cls,), {key: value for key, value in state.items() if key != attribute}, *items

    named = {name: getattr(cls, name) for name in ("__module__", "__doc__", "__qualname__")}
    pipe.__class__ = type(cls.__name__, (cls,), {"__call__": call, "__reduce_ex__": reduce, **named})


def samples_asked(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """How many samples a call asks for: a generator for each, or its first argument's prompts or labels; else None."""
    _, *names = inspect.signature(cls.__call__).parameters
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if isinstance(given.get("generator"), list):
        return len(given["generator"])
    first = given.get(names[0]) if names else None
    if not isinstance(first, str | list):
        return None
    return (1 if isinstance(first, str) else len(first)) * (given.get("num_images_per_prompt") or 1)


def object_of(cls: type) -> Any:
    """An object of a class, whose state pickle sets."""
    return object.__new__(cls)


def leave_calls_alone(pipe: Any) -> None:
    """Undo `enter_in_calls`."""
    pipe.__class__ = type(pipe).__base__
