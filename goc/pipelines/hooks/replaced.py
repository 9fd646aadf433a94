"""A method of one object, replaced: others wrap it again, and copies of the object have what their class has."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch


def of_class(owner: Any, name: str) -> Any:
    """A method as an object's class has it."""
    return getattr(type(owner), name).__get__(owner)


class Replaced:
    """Stands at `name` of an object and does what `call` does; `original` is what was there.

    A deep copy or a pickle of the object holds its class's own method there instead, of the copy.
    """

    def __init__(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        self.owner, self.name, self.call = owner, name, call
        self.original: Callable[..., Any] = getattr(owner, name)
        functools.update_wrapper(self, self.original)  # libraries ask a method which arguments it has
        self.was_set = name in vars(owner)
        setattr(owner, name, self)

    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def take_away(self) -> None:
        """The object has its method back, inside of what others wrapped it in."""
        if vars(self.owner).get(self.name) is not self:
            self.call = self.original
        elif self.was_set:
            setattr(self.owner, self.name, self.original)
        else:
            delattr(self.owner, self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return of_class(copy.deepcopy(self.owner, memo), self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return of_class, (self.owner, self.name)


@contextlib.contextmanager
def replaced(owner: Any, name: str, call: Callable[..., Any]) -> Iterator[None]:
    """Inside, an object's method is another; call: is given the original before its arguments."""
    original = getattr(owner, name)
    stand_in = Replaced(owner, name, functools.partial(call, original))
    try:
        yield
    finally:
        stand_in.take_away()
