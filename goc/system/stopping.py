"""Being told to stop: by SIGTERM (Slurm's preemption), SIGUSR2 (submitit's), a closed terminal, or Ctrl-C.

Files are whole or absent, so a process may end at any moment. It says what it leaves behind.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
STOPPED = 128 + signal.SIGTERM  # exit code of a command that was told to stop, and can go on
INTERRUPTED = 128 + signal.SIGINT
KEPT = "what was finished is kept; the same command goes on from there"


class Stopped(SystemExit):
    """Ends a command that was told to stop: past whatever catches an Exception. Its text is one line."""

    def __init__(self, number: signal.Signals, kept: str) -> None:
        super().__init__(INTERRUPTED if number == signal.SIGINT else STOPPED)
        self.text = f"stopped by {number.name}: {kept}"

    def __str__(self) -> str:
        return self.text


class Stop:
    """A handler of signals that ends the process at once. kept: what it leaves behind, and how to go on."""

    def __init__(self, kept: str) -> None:
        self.kept = kept

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number), self.kept)


@contextlib.contextmanager
def _handlers(new: dict[signal.Signals, Stop]) -> Iterator[None]:
    """These handlers, and at the end those that were there before."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set them
        new = {}
    before: dict[signal.Signals, Any] = {number: signal.signal(number, handler) for number, handler in new.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopping(kept: str = KEPT) -> contextlib.AbstractContextManager[None]:
    """While it is entered, a signal to stop ends the process with a line; one that is ignored (nohup) stays ignored."""
    default = (signal.SIG_DFL, signal.default_int_handler)
    return _handlers({n: Stop(kept) for n in (*SIGNALS, signal.SIGINT) if signal.getsignal(n) in default})


def keeping(kept: str) -> contextlib.AbstractContextManager[None]:
    """Inside `stopping`: while it is entered, this is what the line says; handlers of others stay."""
    numbers = (*SIGNALS, signal.SIGINT)
    return _handlers({number: Stop(kept) for number in numbers if isinstance(signal.getsignal(number), Stop)})
