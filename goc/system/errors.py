"""Problems the user can solve. Their text is one line: the key, its value, and what is allowed or what to do."""

import re
import sys

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

# the beginning and the lines of Hydra's and OmegaConf's messages that tell a user nothing
RESOLVING = re.compile(r"^\w+ raised while resolving interpolation: ")
MERGING = re.compile(r"^Error merging override \+*(.*)$")
HYDRA_DETAILS = ("Config search path", "provider=", "full_key:", "object_type=", "reference_type=")


class GocError(Exception):
    """Ends a run with its text on one line and exit code 1; whatever was already made stays."""


class ConfigError(GocError):
    """A setting, or a combination of settings, that cannot be run."""


def one_line(error: BaseException) -> str:
    """An error's text without line breaks, and without what Hydra adds for its own developers."""
    while isinstance(error.__cause__, GocError):
        error = error.__cause__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: cannot be made, read or written ({error.strerror})"
    lines = [MERGING.sub(r"\1:", line) for line in str(error).splitlines()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += str(error.__cause__).splitlines()
    kept = [line.strip() for line in lines if line.strip() and not line.strip().startswith(HYDRA_DETAILS)]
    text = RESOLVING.sub("", " ".join(kept))
    known = isinstance(error, GocError | HydraException | OmegaConfBaseException)
    return text if known else f"{type(error).__name__}: {text}"


def fail(error: BaseException, code: int = 1) -> int:
    """Print an error as one line on stderr; returns the exit code."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return code
