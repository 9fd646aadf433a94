"""The times of a solver's evaluations, learned for a model or made by hand: JSON that sampler.timesteps names.

{"times": [999, 801.5, 590.2, 350.1, 96.4], "network_times": [...], "trained_for": {...}}: where the evaluations are,
and what the network is given there as its timestep (null, or not there: the same). Of a diffusion model they are
training timesteps and fall from 999, of flow matching times and rise from 0; they need not be whole. `trained_for` says
for which model, solver and guidance they are; without it, for any. Whatever else is there says how they were found, and
is not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from goc.models.plans import as_text, read_plan
from goc.system.errors import ConfigError
from goc.system.files import write_text

KEY = "sampler.timesteps"


@dataclass(frozen=True)
class Times:
    """Of a solver's evaluations, float64 [steps]: where they are, and what the network is given there."""

    points: np.ndarray
    given: np.ndarray


def read_times(path: str, sampler: Any, span: tuple[float, float], steps: int) -> Times:
    """The times of a file; raises ConfigError where it is damaged, or of another sampler or number of steps.

    sampler: as a result has it, without times. span: the times of noise and of data, between which they are.
    """
    content = _content(path)
    points = _numbers(path, content, "times", span)
    first, last = span
    lengths, falling = np.diff(points, append=last) * np.sign(last - first), last < first
    # training timestep 0 has noise, which is taken away after it; at time 1 of flow matching there is nothing to do
    if points[0] != first or not ((lengths[:-1] > 0).all() and (falling or lengths[-1] > 0)):
        which = f"fall from {first:g} to {last:g} at most" if falling else f"rise from {first:g} to below {last:g}"
        raise ConfigError(f"{KEY}={path}: times must {which}, no two of them equal")
    given = points if content.get("network_times") is None else _numbers(path, content, "network_times", span)
    if len(given) != len(points):
        raise ConfigError(f"{KEY}={path}: must have as many network_times as times, {len(points)}")
    trained = _trained_for(path, content)
    if trained is not None and trained.get("sampler") != sampler:
        raise ConfigError(f"{KEY}={path}: was trained for sampler={trained.get('sampler')}, not for {sampler}")
    if len(points) != steps:
        raise ConfigError(f"{KEY}={path}: is for steps={len(points)}, not for {steps}")
    return Times(points, given)


def check_trained_for(path: str, wanted: Mapping[str, Any]) -> None:
    """Raise ConfigError if a file's times were trained for another model or guidance than is wanted, by their names."""
    trained = _trained_for(path, _content(path)) or {}
    for name, value in wanted.items():
        if trained.get(name, value) != value:
            raise ConfigError(f"{KEY}={path}: was trained for {name}={trained[name]}, not for {value}")


def write_times(path: Path, times: Times, **origin: Any) -> None:
    """Write times, with what else is said of them, one entry a line."""
    content = {"times": times.points.tolist(), "network_times": times.given.tolist(), **origin}
    write_text(path, as_text(content))


def _content(path: str) -> dict[str, Any]:
    try:
        content = read_plan(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{KEY}={path}: no such file; goc train timesteps trains them") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{KEY}={path}: not a JSON of times ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{KEY}={path}: not a JSON of times (it must have times)")
    return content


def _numbers(path: str, content: Mapping[str, Any], name: str, span: tuple[float, float]) -> np.ndarray:
    """A list of numbers within a span, float64 [n]; raises ConfigError."""
    values, low, high = content.get(name), min(span), max(span)
    if not isinstance(values, list) or not values or not all(
        type(value) in (int, float) and low <= value <= high for value in values
    ):  # fmt: skip
        raise ConfigError(f"{KEY}={path}: must have {name}, a list of numbers in [{low:g}, {high:g}]")
    return np.array(values, dtype=np.float64)


def _trained_for(path: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the times were trained for; None: that is not said."""
    trained = content.get("trained_for")
    if trained is not None and not isinstance(trained, dict):
        raise ConfigError(f"{KEY}={path}: trained_for must say for which model, sampler and guidance")
    return trained
