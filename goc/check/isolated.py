"""Runs a function in a process of its own, so that whatever becomes of it (out of memory, a hang, a crash of the CUDA
context) is one line and concerns nothing else.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from goc.system.errors import one_line

Result = TypeVar("Result")
Start = Literal["fork", "spawn"]  # a forked process starts at once, but cannot use CUDA if the first one does
LONGEST = 300  # characters of an error's line
LOOK_S = 0.5  # between looks for the process that waits
ENDING_S = 5.0  # that a process has to end in after its answer


@dataclass(frozen=True)
class Ended(Generic[Result]):
    """How it went: the result, or else the error as one line; and the seconds it took with its process's start."""

    result: Result | None
    error: str
    seconds: float


def run(function: Callable[[], Result], seconds: float, log: Path, start: Start) -> Ended[Result]:
    """Call a function in another process, for at most some seconds; what it starts ends with it.

    log: file for all that it prints, and for the traceback of its error. With "spawn", the function must be importable.
    """
    began = time.monotonic()
    context: Any = multiprocessing.get_context(start)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(function, sender, log, os.getpid()))
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            result, error = cast("tuple[Result | None, str]", receiver.recv())
            process.join(ENDING_S)
        else:
            result, error = None, f"took longer than {seconds:.0f} s"
    except EOFError:
        process.join(ENDING_S)
        result, error = None, f"ended without an answer, exit code {process.exitcode} ({log.name} may say more)"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        receiver.close()
    return Ended(result, error, time.monotonic() - began)


def _answer(function: Callable[[], Any], sender: Connection, log: Path, parent: int) -> None:
    """In the new process: send (result, "") or (None, why not)."""
    os.setsid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with log.open("w", buffering=1, encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        sys.stdout = sys.stderr = file
        try:
            answer = function(), ""
        except BaseException as error:
            traceback.print_exc()
            answer = None, shortened(one_line(error))
        sender.send(answer)
        sender.close()


def _end_with(parent: int) -> None:
    """End this process, and what it started, soon after the process that waits for its answer was killed."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.killpg(os.getpid(), signal.SIGKILL)


def shortened(text: str) -> str:
    """At most LONGEST characters of a line."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
