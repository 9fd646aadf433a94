"""Files of whole-step schedules, and of the weights learned for one: JSON that can be named elsewhere.

{"evaluations": 20, "computed": [0, 4, 10, 14, 17], ...}; with weights also {"weights": {"1": [1.0, 0.0, 0.0], ...},
"trained_for": {...}}: of each cached step the weights on the last computed features, newest first, and what the
predictions were trained for. Whatever else is there says how it was found, and is not read.

A front has the schedules and weights for several numbers of computed evaluations, {"evaluations": 20, "trained_for":
{...}, "front": {"4": {"computed": [0, 5, 11, 16], "weights": {...}, ...}, "5": ...}}.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.models.plans import as_text, read_plan
from goc.system.errors import ConfigError
from goc.system.files import write_text
from goc.system.precision import LARGEST_WEIGHT

FRONT = "front"


def _content(key: str, path: str) -> dict[str, Any]:
    """The JSON object in a file; raises ConfigError."""
    try:
        content = read_plan(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{key}={path}: no such file; schedule=searched finds schedules, goc train weights trains weights, "
            "goc train front both"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}={path}: not a schedule's JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{key}={path}: not a schedule's JSON (it must have evaluations and computed)")
    return content


def _read(key: str, path: str, count: int | None = None) -> dict[str, Any]:
    """What a file says of its schedule; count: of computed evaluations, which a front has several of."""
    content = _content(key, path)
    if FRONT in content and count is not None:
        content = content | _entries(key, path, content).get(count, {})
    if FRONT in content and "computed" not in content:
        raise ConfigError(f"{key}={path}: is a front, of several schedules; schedule=front takes it")
    if not {"evaluations", "computed"} <= content.keys():
        raise ConfigError(f"{key}={path}: not a schedule's JSON (it must have evaluations and computed)")
    _check_computed(key, path, content)
    return content


def _check_computed(key: str, path: str, content: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the computed steps are some of the evaluations."""
    steps, computed = content["evaluations"], content["computed"]
    whole = type(steps) is int and isinstance(computed, list) and all(type(i) is int for i in computed)  # not true
    if not whole or computed[:1] != [0] or sorted(set(computed)) != computed or computed[-1] >= steps:
        raise ConfigError(f"{key}={path}: computed must be increasing steps from 0 on, below evaluations={steps}")


def _entries(key: str, path: str, content: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """A front's entries by how many evaluations they compute; raises ConfigError."""
    front, entries = content[FRONT], dict[int, dict[str, Any]]()
    for name, entry in front.items() if isinstance(front, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("computed"), list):
            raise ConfigError(f"{key}={path}: not a front's JSON (the entry {name} has no computed steps)")
        if name != str(len(entry["computed"])):
            raise ConfigError(f"{key}={path}: the entry {name} computes {len(entry['computed'])} evaluations")
        entries[len(entry["computed"])] = entry
    if not entries:
        raise ConfigError(f"{key}={path}: not a front's JSON (it must have entries by computed evaluations)")
    return entries


def read_front(path: str, evaluations: int) -> dict[int, tuple[int, ...]]:
    """The computed steps of a front's schedules, by how many they are; raises ConfigError as `read_schedule`."""
    key = "schedule.path"
    content = _content(key, path)
    if FRONT not in content:
        raise ConfigError(f"{key}={path}: must be a front, as goc train front writes it; schedule=searched takes this")
    counts = _entries(key, path, content)
    for entry in counts.values():
        _check_computed(key, path, {"evaluations": content.get("evaluations"), **entry})
    if content["evaluations"] != evaluations:
        raise ConfigError(f"{key}={path}: is for {content['evaluations']} evaluations, not for {evaluations}")
    return {count: tuple(counts[count]["computed"]) for count in sorted(counts)}


def read_schedule(path: str, evaluations: int) -> tuple[int, ...]:
    """The computed steps of a file; raises ConfigError where it is damaged or for another number of evaluations."""
    key = "schedule.path"
    content = _read(key, path)
    if content["evaluations"] != evaluations:
        raise ConfigError(f"{key}={path}: is for {content['evaluations']} evaluations, not for {evaluations}")
    return tuple(content["computed"])


def read_weights(path: str, wanted: Mapping[str, Any], computed: tuple[int, ...], evaluations: int) -> Tensor:
    """The weights of a file, float32 [evaluations, K]; zero in computed steps.

    wanted: what they must have been trained for, all of it; computed: the schedule of so many evaluations that they
    will run on. Raises ConfigError naming the first that differs.
    """
    key = "predictor.path"
    content = _read(key, path, len(computed))
    trained, rows = content.get("trained_for"), content.get("weights")
    if not isinstance(trained, dict) or not isinstance(rows, dict):
        raise ConfigError(f"{key}={path}: has no weights, only a schedule; train them with goc train weights")
    for name, value in wanted.items():
        if trained.get(name) != value:
            raise ConfigError(f"{key}={path}: was trained for {name}={trained.get(name)}, not for {value}")
    if tuple(content["computed"]) != computed:
        shown = ",".join(map(str, computed))
        raise ConfigError(
            f"{key}={path}: was trained for the schedule {','.join(map(str, content['computed']))}, not for {shown}"
        )
    if content["evaluations"] != evaluations:
        raise ConfigError(f"{key}={path}: is for {content['evaluations']} evaluations, not for {evaluations}")
    cached = [step for step in range(evaluations) if step not in computed]
    lengths = {len(row) if isinstance(row, list) else 0 for row in rows.values()}
    if set(rows) != {str(step) for step in cached} or len(lengths) > 1 or 0 in lengths:
        raise ConfigError(f"{key}={path}: must have as many weights for each cached step, and for no other")
    weights = torch.zeros(evaluations, max(lengths, default=1))
    for step in cached:
        row = rows[str(step)]
        if not all(_is_weight(value) for value in row):
            raise ConfigError(f"{key}={path}: the weights of step {step} must be numbers of at most {LARGEST_WEIGHT:g}")
        if any(row[sum(before < step for before in computed) :]):
            raise ConfigError(f"{key}={path}: step {step} has weights on more features than are computed before it")
        weights[step] = torch.tensor(row, dtype=torch.float32)
    return weights


def _is_weight(value: Any) -> bool:
    """Whether a value of JSON is a number that a feature can be multiplied by."""
    return type(value) in (int, float) and abs(value) <= LARGEST_WEIGHT


def write_schedule(path: Path, evaluations: int, computed: tuple[int, ...], **origin: Any) -> None:
    """Write a schedule, with what else is said of it, one entry a line."""
    write_text(path, as_text({"evaluations": evaluations, "computed": list(computed), **origin}))


def rows_of(weights: Tensor, computed: tuple[int, ...]) -> dict[str, list[float]]:
    """Weights [evaluations, K] as a file has them: the rows of cached steps, six digits each."""
    rows = enumerate(weights.tolist())
    return {str(step): [round(weight, 6) for weight in row] for step, row in rows if step not in computed}
