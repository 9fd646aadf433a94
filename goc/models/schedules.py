"""Files of whole-step schedules, and of the weights learned for one: JSON that can be named elsewhere.

{"evaluations": 20, "computed": [0, 4, 10, 14, 17], ...}; with weights also {"weights": {"1": [1.0, 0.0, 0.0], ...},
"trained_for": {...}}: of each cached step the weights on the last computed features, newest first, and what the
predictions were trained for; or of each cell, {"1": [[[1.0, 0.0, 0.0], ...both branches], ...blocks], ...}. "shifts",
{"5": 0.4, ...}: how far the time that the network is given in a computed step lies from its own, in units of the way to
the next one's. Whatever else is there says how it was found, and is not read.

A front has the schedules and weights for several numbers of computed evaluations, {"evaluations": 20, "trained_for":
{...}, "front": {"4": {"computed": [0, 5, 11, 16], "weights": {...}, ...}, "5": ...}}.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from goc.models.plans import as_text, read_plan
from goc.system.errors import ConfigError
from goc.system.files import write_text
from goc.system.precision import LARGEST_WEIGHT

FRONT = "front"


class Trained(NamedTuple):
    """What was trained for a schedule, or fitted.

    weights: on computed features, float32 [evaluations, K], or of each cell [evaluations, blocks, branches, K]; zero in
    computed steps. shifts: of the times that the network is given, float64 [evaluations], in units of the way to the
    next evaluation's; None: there are none.
    """

    weights: Tensor
    shifts: Tensor | None = None

    def times(self, times: Sequence[float]) -> Tensor | None:
        """What the network is given in each evaluation, float64, where the solver's are these; None: the same.

        None is before the first of them, or behind the last.
        """
        if self.shifts is None:
            return None
        at = torch.tensor(times, dtype=torch.float64)
        return (at + self.shifts * torch.diff(at, append=at[-1:])).clamp(at.min(), at.max())


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


def read_front(path: str, evaluations: int, key: str = "schedule.path") -> dict[int, dict[str, Any]]:
    """A front's entries by how many steps they compute, rising; raises ConfigError as `read_schedule`."""
    content = _content(key, path)
    if FRONT not in content:
        raise ConfigError(f"{key}={path}: must be a front, as goc train front writes it; schedule=searched takes this")
    counts = _entries(key, path, content)
    for entry in counts.values():
        _check_computed(key, path, {"evaluations": content.get("evaluations"), **entry})
    if content["evaluations"] != evaluations:
        raise ConfigError(f"{key}={path}: is for {content['evaluations']} evaluations, not for {evaluations}")
    return {count: counts[count] for count in sorted(counts)}


def read_schedule(path: str, evaluations: int) -> tuple[int, ...]:
    """The computed steps of a file; raises ConfigError where it is damaged or for another number of evaluations."""
    key = "schedule.path"
    content = _read(key, path)
    if content["evaluations"] != evaluations:
        raise ConfigError(f"{key}={path}: is for {content['evaluations']} evaluations, not for {evaluations}")
    return tuple(content["computed"])


def read_weights(
    path: str, wanted: Mapping[str, Any], computed: tuple[int, ...], evaluations: int, cells: tuple[int, int] = (1, 1)
) -> Trained:
    """What a file has for a schedule.

    wanted: what it must have been trained for, all of it; computed: the schedule of so many evaluations that it will
    run on; cells: its blocks and branches. Raises ConfigError naming the first that differs.
    """
    key = "predictor.path"
    content = _read(key, path, len(computed))
    trained = content.get("trained_for")
    if not isinstance(trained, dict):
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
    return trained_of(content, evaluations, cells, f"{key}={path}")


def trained_of(content: Mapping[str, Any], evaluations: int, cells: tuple[int, int], named: str) -> Trained:
    """What a file, or an entry of a front, has for its schedule of so many evaluations; as `read_weights`."""
    rows, computed = content.get("weights"), tuple(content["computed"])
    if not isinstance(rows, dict):
        raise ConfigError(f"{named}: has no weights, only a schedule; train them with goc train weights")
    cached = [step for step in range(evaluations) if step not in computed]
    shapes = {_shape(row) for row in rows.values()}
    shape = max(shapes, default=(1,), key=len)
    if set(rows) != {str(step) for step in cached} or len(shapes) > 1 or len(shape) not in (1, 3) or 0 in shape:
        raise ConfigError(f"{named}: must have as many weights for each cached step, and for no other")
    if len(shape) == 3 and shape[:2] != cells:
        raise ConfigError(f"{named}: has weights of {shape[0]} x {shape[1]} cells, not of {cells[0]} x {cells[1]}")
    weights = torch.zeros(evaluations, *shape)
    for step in cached:
        row = rows[str(step)]
        if not _all_numbers(row, LARGEST_WEIGHT):
            raise ConfigError(f"{named}: the weights of step {step} must be numbers of at most {LARGEST_WEIGHT:g}")
        weights[step] = torch.tensor(row, dtype=torch.float32)
        if weights[step, ..., sum(before < step for before in computed) :].any():
            raise ConfigError(f"{named}: step {step} has weights on more features than are computed before it")
    return Trained(weights, _shifts(named, content.get("shifts"), computed, evaluations))


def _shape(row: Any, depth: int = 4) -> tuple[int, ...]:
    """The shape of nested lists, by the first of each, to a depth of so many; () of what is no list."""
    return (len(row), *(_shape(row[0], depth - 1) if row and depth > 1 else ())) if isinstance(row, list) else ()


def _all_numbers(row: Any, largest: float) -> bool:
    """Whether JSON is a number of at most so much, or lists of such as long as each other."""
    if isinstance(row, list):
        return len({_shape(one) for one in row}) == 1 and all(_all_numbers(one, largest) for one in row)
    return type(row) in (int, float) and abs(row) <= largest


def _shifts(named: str, shifts: Any, computed: tuple[int, ...], evaluations: int) -> Tensor | None:
    """The shifts of a file, float64 [evaluations]; None: it has none. Raises ConfigError."""
    if shifts is None:
        return None
    steps = {str(step) for step in computed}
    if not isinstance(shifts, dict) or not shifts.keys() <= steps or not all(
        type(shift) in (int, float) and abs(shift) <= 1 for shift in shifts.values()
    ):  # fmt: skip
        raise ConfigError(f"{named}: its shifts must be numbers in [-1, 1], of computed steps")
    if any(shifts.get(str(step)) for step in (0, evaluations - 1)):
        raise ConfigError(f"{named}: must have no shift of the first and of the last evaluation")
    return torch.tensor([float(shifts.get(str(step), 0.0)) for step in range(evaluations)], dtype=torch.float64)


def write_schedule(path: Path, evaluations: int, computed: tuple[int, ...], **origin: Any) -> None:
    """Write a schedule, with what else is said of it, one entry a line."""
    write_text(path, as_text({"evaluations": evaluations, "computed": list(computed), **origin}))


def rows_of(weights: Tensor, computed: tuple[int, ...]) -> dict[str, list[Any]]:
    """Weights [evaluations, ...] as a file has them: the rows of cached steps, six digits each."""
    rows = enumerate(weights.double().round(decimals=6).tolist())
    return {str(step): row for step, row in rows if step not in computed}


def shifts_of(shifts: Tensor | None, computed: tuple[int, ...]) -> dict[str, float]:
    """Shifts [evaluations] as a file has them: of computed steps, but the first, six digits each; None: zero."""
    return {str(step): 0.0 if shifts is None else round(float(shifts[step]), 6) for step in computed[1:]}
