"""Which class each sample is of: drawn with its noise, or given by its index."""

from pathlib import Path
from typing import Any

from goc.system.errors import ConfigError, did_you_mean
from goc.system.files import read_text, resolve

UNIFORM, BALANCED = "uniform", "balanced"
BYTE_ORDER_MARK = "\ufeff"  # with which editors on Windows begin a file
ALLOWED = f"{UNIFORM}, {BALANCED}, a list of labels, or a text file with a label a line"


def label_file(setting: Any) -> Path | None:
    """The file that class_labels names; None: it names none."""
    return resolve(setting) if isinstance(setting, str) and setting not in (UNIFORM, BALANCED) else None


def given_labels(setting: Any, num_classes: int) -> tuple[int, ...]:
    """The labels that samples have by their index, from the first again after the last; (): each draws its own.

    Raises ConfigError for what is no rule, and for a label that the model does not have.
    """
    if setting == UNIFORM:
        return ()
    if setting == BALANCED:
        return tuple(range(num_classes))
    path = label_file(setting)
    if path is not None:
        labels, where = _read(path), f"class_labels={setting}"
    elif isinstance(setting, list | tuple) and all(type(label) is int for label in setting):
        labels, where = list(setting), f"class_labels={list(setting)}"
    else:
        raise ConfigError(f"class_labels={setting}: must be {ALLOWED}")
    if not labels:
        raise ConfigError(f"{where}: has no label in it; must be {ALLOWED}")
    wrong = next((label for label in labels if not 0 <= label < num_classes), None)
    if wrong is not None:
        raise ConfigError(f"{where}: label {wrong} must be in [0, {num_classes - 1}]")
    return tuple(labels)


def _read(path: Path) -> list[int]:
    """The labels in a text file, one a line; lines without any do not count."""
    try:
        lines = [line.strip() for line in read_text(path).removeprefix(BYTE_ORDER_MARK).splitlines()]
    except FileNotFoundError as error:
        meant = did_you_mean(path.name.lower(), (UNIFORM, BALANCED))
        raise ConfigError(f"class_labels={path}: no such file; must be {ALLOWED}{meant}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"class_labels={path}: cannot be read ({error}); must be {ALLOWED}") from error
    labels = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if not line.isdecimal() or len(line) > 9:
            raise ConfigError(f"class_labels={path}: line {number} is {line[:40]!a}, must be a label")
        labels.append(int(line))
    return labels
