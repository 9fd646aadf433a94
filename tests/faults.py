"""What can be wrong with the machine around a process; each is brought about in the process that calls it."""

import errno
import io
import os
import pwd
import resource
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def _encode_in(encoding: str) -> None:
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(n, "w", closefd=False)), encoding) for n in (1, 2)
    )


def ascii_streams() -> None:
    """As PYTHONIOENCODING=ascii does at the start of Python."""
    _encode_in("ascii")


def latin_streams() -> None:
    """A terminal of western Europe, strict as Python's standard output is."""
    _encode_in("iso8859-15")


def closed_output() -> None:
    """`>&-`: the shell gives no standard output."""
    os.close(1)
    sys.stdout = None  # as Python then has it


def closed_streams() -> None:
    """`<&- >&- 2>&-`: none of the three."""
    for number in range(3):
        os.close(number)
    sys.stdin = sys.stdout = sys.stderr = None  # as Python then has them


def reader_gone() -> None:
    """`2>&1 | true`: nobody reads what is written."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)


def full_output() -> None:
    """`> FILE` on a disk without room."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def no_home() -> None:
    """A container's user: no HOME, and a number that /etc/passwd does not know."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        os.environ.pop(name, None)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    pwd.getpwuid = unknown


def unwritable_home() -> None:
    """A home in which nothing can be made, not even by root."""
    os.environ.pop("XDG_CACHE_HOME", None)
    os.environ["HOME"] = "/proc/1/fdinfo"


def no_width() -> None:
    """A terminal that says it has no columns."""
    os.environ["COLUMNS"] = os.environ["LINES"] = "0"
    os.environ.pop("TERM", None)


def no_temporary_folder() -> None:
    """TMPDIR names nothing."""
    os.environ["TMPDIR"] = "/nonexistent"


def c_locale() -> None:
    """The locale of a bare container, a decimal comma for numbers, and a time zone that is none."""
    os.environ.update(LC_ALL="C", LC_NUMERIC="de_DE.UTF-8", TZ="Nowhere/Never")


def few_files() -> None:
    """`ulimit -n 64`."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def gone_folder() -> None:
    """The folder that it works in was deleted."""
    here = os.getcwd()
    os.chdir(here)
    shutil.rmtree(here)


def private_files() -> None:
    """`umask 077`."""
    os.umask(0o077)


def shared_files() -> None:
    """`umask 002`, as groups on clusters have it."""
    os.umask(0o002)


def ignored_hangup() -> None:
    """`nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def no_locks() -> None:
    """A file system that knows no locks, as some of NFS."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = refuse


def slow_extraction() -> None:
    """A network that takes its time, after which its sums are saved at once."""
    from goc.metrics import extraction
    from goc.metrics.features import Extractor, Features

    extract = Extractor.extract

    def slowly(self: Extractor, images: "Tensor") -> Features:
        time.sleep(0.05)
        return extract(self, images)

    extraction.SAVED_EVERY_S = extraction.LEAST_WORK = 0
    Extractor.extract = slowly
