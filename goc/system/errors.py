"""Problems the user can solve. Their text is one line: the key, its value, and what is allowed or what to do."""

import contextlib
import errno
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

# the beginning and the lines of Hydra's and OmegaConf's messages that tell a user nothing
RESOLVING = re.compile(r"^\w+ raised while resolving interpolation: ")
MERGING = re.compile(r"^Error merging override \+*(.*)$")
HYDRA_DETAILS = ("Config search path", "provider=", "full_key:", "object_type=", "reference_type=", "See https://hydra")
# how the libraries say that there is no memory left, where it is no MemoryError: torch's allocators and PyTorch's C++
# code, cuBLAS and cuDNN, safetensors' mapping of a file
NO_MEMORY = re.compile(
    r"can't allocate memory|out of memory|bad_alloc|_ALLOC_FAILED|not enough memory|Cannot allocate memory", re.I
)


class GocError(Exception):
    """Ends a run with its text on one line and exit code 1; whatever was already made stays."""


class ConfigError(GocError):
    """A setting, or a combination of settings, that cannot be run."""


class OutOfMemoryError(GocError):
    """Something did not fit into memory; the text says what to make smaller."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """What goes on a message that a name is none of some, if one of them is close; else nothing."""
    return "".join(f"; did you mean {match}?" for match in get_close_matches(name, list(names), n=1))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that there is no memory left: the machine's, or a GPU's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    by_text = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"
    return isinstance(error, MemoryError) or (by_text and bool(NO_MEMORY.search(str(error))))


@contextlib.contextmanager
def memory_for(setting: str, advice: str = "choose a smaller one") -> Iterator[None]:
    """While something runs whose memory a setting decides: where there is not enough, the error names the setting.

    setting: KEY=VALUE. Raises OutOfMemoryError; that of a setting named further inside passes.
    """
    try:
        yield
    except Exception as error:
        cause = memory_error(error)
        if cause is None:
            raise
        raise OutOfMemoryError(f"{setting}: out of memory{_details(cause)}; {advice}") from error


def memory_error(error: BaseException) -> BaseException | None:
    """The error of a library that says so, if an error comes of that; None for one that a setting is named in."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OutOfMemoryError):
        if is_out_of_memory(cause):
            return cause
        cause = cause.__cause__
    return None


def _details(error: BaseException) -> str:
    """How much was asked for, in the words of a library, in brackets: torch's of a GPU go on about much else."""
    asked = re.search(r"(tried to allocate|unable to allocate) [^.;]*?[\d.]+ ?(bytes|[KMGTPE]iB)", str(error), re.I)
    return f" ({asked[0][0].lower()}{asked[0][1:]})" if asked else ""


def one_line(error: BaseException) -> str:
    """An error's text without line breaks, and without what Hydra adds for its own developers."""
    while isinstance(error.__cause__, GocError):
        error = error.__cause__
    if (cause := memory_error(error)) is not None:
        return f"out of memory{_details(cause)}; a smaller batch_size needs less"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: cannot be made, read or written ({error.strerror})"
    lines = [MERGING.sub(r"\1:", line) for line in str(error).splitlines()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += str(error.__cause__).splitlines()
    kept = [line.strip() for line in lines if line.strip() and not line.strip().startswith(HYDRA_DETAILS)]
    whole = " ".join(kept)
    text = RESOLVING.sub("", whole)
    # what it is about, where the text does not say so
    about = error.override if isinstance(error, OverrideParseException) else _full_key(error)
    if about and text == whole and re.split(r"[=\[]", about)[0] not in text:
        text = f"{about}: {text}"
    known = isinstance(error, GocError | HydraException | OmegaConfBaseException | SystemExit)
    return text if known else f"{type(error).__name__}: {text}"


def _full_key(error: BaseException) -> str:
    """The setting that an error of OmegaConf's is about; "": it does not know, or it is another error."""
    causes = (cause for cause in (error, error.__cause__) if isinstance(cause, OmegaConfBaseException))
    return next((str(cause.full_key) for cause in causes if cause.full_key), "")


def fail(error: BaseException, code: int = 1) -> int:
    """Print an error as one line on stderr; returns the exit code."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return code
