"""Stopping between two shards when asked to, with the shard in hand on disk."""

import signal
from types import FrameType, TracebackType
from typing import Any

from goc.system.errors import GocError
from goc.system.stopping import SIGNALS, Stop


class StoppedError(GocError):
    """A run was asked to stop, and did so with everything it had finished on disk."""


class StopRequests:
    """Remembers that a signal came while it is entered; `check` then stops at a point where nothing is lost.

    On leaving, the earlier handlers are back. A handler that was there before (submitit's, which requeues the job) is
    called when the work in hand is done, in place of stopping here. A signal that is ignored (nohup) stays ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}
        self.frame: FrameType | None = None

    def __enter__(self) -> "StopRequests":
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    def check(self) -> None:
        """Raise StoppedError, or let the earlier handler act, if a signal has come."""
        if self.received is None:
            return
        handler = self.before[self.received]
        if callable(handler) and not isinstance(handler, Stop):
            handler(self.received, None)
        raise StoppedError(
            f"stopped by {self.received.name} after the shard in hand; the same command goes on from there"
        )
