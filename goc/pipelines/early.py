"""Leaving code of others, which cannot be asked to stop, as soon as enough is known."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NoReturn


@contextlib.contextmanager
def until() -> Iterator[Callable[[], NoReturn]]:
    """Calling what this gives ends the block inside, from however deep; others' `except Exception` does not see it."""

    class Enough(BaseException):
        """Of this one block, so that blocks may stand in each other."""

    def leave() -> NoReturn:
        raise Enough

    with contextlib.suppress(Enough):
        yield leave
