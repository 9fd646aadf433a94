"""What all commands have around their main(): streams that cannot fail it, signals and errors that are one line."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from goc.system.errors import GocError, fail, is_out_of_memory
from goc.system.stopping import KEPT, Stopped, stopping

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # nobody reads on: `| head -1`, a closed terminal, `>&-`
FAILING = ("strict", "surrogateescape")  # error handlers of streams that raise at a character they cannot encode


class Unfailing(io.FileIO):
    """A stream to whom writing never raises: what cannot be written is dropped, and the last reason kept."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.lost = error
            return memoryview(data).nbytes


def run_command(main: Callable[[], int | None], kept: str = KEPT) -> int:
    """Run a command's main() and return its exit code.

    Standard output and error take every character, and go on without a reader. An error that the user can solve is one
    line. kept: what a command that is told to stop leaves behind, and how to go on.
    """
    with standard_streams() as streams:
        try:
            with stopping(kept):
                code = main() or 0
        except Stopped as stopped:
            code = fail(stopped, int(str(stopped.code)))
        except (GocError, HydraException, OmegaConfBaseException, OSError) as error:
            code = fail(error)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            code = fail(error)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        lost = next((s.lost for s in streams if s.lost is not None and s.lost.errno not in GONE), None)
        if lost is not None:  # a full disk: what was to be read is not there
            code = fail(OSError(lost.errno, lost.strerror, "standard output or error"), code or 1)
    return code


@contextlib.contextmanager
def standard_streams() -> Iterator[list[Unfailing]]:
    """While it is entered, sys.stdout and sys.stderr never raise; what they write to, at the end with what it lost."""
    for number in range(3):  # a closed one would become a file's, and whoever writes to the number would write there
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before, made = (sys.stdout, sys.stderr), list[Unfailing]()
    for name in ("stdout", "stderr"):
        setattr(sys, name, _unfailing(getattr(sys, name), made))
    try:
        yield made
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _unfailing(stream: TextIO | None, made: list[Unfailing]) -> TextIO:
    """The same stream on an `Unfailing`, which is added to those made; one that is no file's stays as it is."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return stream
    stream.flush()
    made.append(Unfailing(number, "wb", closefd=False))
    return io.TextIOWrapper(
        io.BufferedWriter(made[-1]),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors in FAILING else stream.errors,
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )
