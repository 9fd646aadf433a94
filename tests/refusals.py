"""What every refusal of bad input has in common; the tables of bad inputs are in tests/unit/bad_inputs/ and app/."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bad:
    """A bad input: a name for the test, what is typed (run.py's settings), and what its answer says, as a pattern."""

    name: str
    settings: tuple[str, ...]
    says: str

    def __str__(self) -> str:
        return self.name


class Malicious:
    """Unpickling this makes a folder: code that must not run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def assert_refused(finished: "subprocess.CompletedProcess[str]", says: str) -> None:
    """A non-zero exit, no traceback, and exactly one line that begins with "error: " and says this."""
    assert finished.returncode != 0, finished.stdout
    assert "Traceback" not in finished.stderr + finished.stdout, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    assert re.search(says, lines[0]), lines[0]
