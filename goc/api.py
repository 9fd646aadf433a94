"""Runs, sweeps and comparisons from Python: what `python run.py` does, with results as objects."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from goc.config import compose_config, run_id, validate
from goc.config.hydra import literal
from goc.report.result import Result
from goc.system.errors import ConfigError, GocError, one_line

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = Path("outputs")


def run(*overrides: str, **settings: Any) -> Result:
    """Carry out one run and return its result; a finished one is only read back.

        goc.run("method=goc", "cache_ratio=0.5", num_samples=200)

    overrides: as on run.py's command line. settings: the same as keywords, whose values are Python's; a nested one by
    `**{"model.call.height": 512}`. Files go to outputs/NAME/RUN below the working folder, as run.py's. Raises GocError
    for what the user can solve.
    """
    from goc.runs.run import run as run_one

    with one_line_errors():
        config = compose_config([*overrides, *typed(settings)])
    validate(config)
    folder = OUTPUTS / config.output.name / run_id(config)
    result = run_one(config, folder)
    return Result.load(folder) if result is None else result  # of several workers one leads


@dataclass(frozen=True)
class Sweep:
    """The finished runs in a study's folder, and why others failed, by their folder's name."""

    folder: Path
    results: tuple[Result, ...]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """One row a run, one column a number, NAME_se their standard errors; sorted by measurement and cost."""
        from goc.report.frame import INTERNAL, table

        return table([dict(result.content) for result in self.results]).drop(columns=INTERNAL)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __str__(self) -> str:
        shown = self.table.dropna(axis="columns", how="all")
        failed = (f"failed: {job}: {reason}" for job, reason in self.failed.items())
        return "\n".join([shown.to_string(index=False), *failed])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return str(self.table.dropna(axis="columns", how="all").to_html(index=False))


def sweep(*overrides: str, **settings: Any) -> Sweep:
    """Carry out a sweep and write its report, as `python run.py -m` does.

        goc.sweep("method=none,reuse,goc", "cache_ratio=0.25,0.5", name="mine")
        goc.sweep("experiment=digits_tradeoff", smoke=True)

    overrides: as on the command line; a comma separates values to try. settings: as `run`'s, the same in every run.
    Runs that fail do not stop the others; why they did is in `failed`. Raises GocError where nothing can be started.
    """
    from goc.cli.application import SweepReport, launch
    from goc.report.collect import find

    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level  # Hydra puts its own in their place
    try:
        with one_line_errors():
            launch(["-m", *overrides, *typed(settings)])
    finally:
        logger.handlers, logger.level = handlers, level
    assert SweepReport.study is not None  # a sweep that was started has a folder
    collected = find([SweepReport.study])
    results = (Result(folder, content) for folder, content in collected.runs)
    return Sweep(SweepReport.study, tuple(results), dict(collected.failures))


def compare(first: Result | Path | str, second: Result | Path | str) -> pd.DataFrame:
    """Every number that two runs have: the first's, the second's, their difference with its paired error, a verdict.

    Runs are results or their folders. Raises GocError for runs of different measurements.
    """
    from goc.report.compare import compared_points, comparison

    results = [run if isinstance(run, Result) else Result.load(run) for run in (first, second)]
    return comparison(*compared_points([(result.folder, dict(result.content)) for result in results]))


def score(
    images: Path | str | Any,
    *overrides: str,
    name: str = "elsewhere",
    reference: Path | str | None = None,
    against: Path | str | Any = None,
    paired: bool = False,
    evaluations: float | None = None,
    gmacs: float | None = None,
    seconds: float | None = None,
    out: Path | str | None = None,
    **settings: Any,
) -> Result:
    """Measure images that were made elsewhere as a run's, and return the result.

        goc.score("samples.npz", model="digits", name="their cache")
        goc.score(array, reference="reference.npz", metrics=["fid"])

    images: a folder, an .npz as ADM's, or an array of uint8 [N, H, W, C] or [N, C, H, W]. overrides, settings: as
    `run`'s; they say whose measurement the images are of, and by what they are scored. reference: real images, for
    images that are of no model here. against: the same seeds without a cache. The rest is as `goc score` has it.
    """
    from goc.cli.score import ELSEWHERE, SCORED, score

    given = [*overrides, *typed(settings)]
    if reference is not None:
        of_a_model = any(text.partition("=")[0] == "model" for text in given)
        given = [*(() if of_a_model else ELSEWHERE), *given, *typed({"model.reference": str(reference)})]
    with one_line_errors(), contextlib.ExitStack() as files:
        where = files.enter_context(on_disk(images, SCORED, "images"))
        target = None if against is None else files.enter_context(on_disk(against, SCORED, "against"))
        said = {"paired": paired, "evaluations": evaluations, "gmacs": gmacs, "seconds": seconds}
        return score(where, given, name, None if out is None else Path(out), target, **said)


@contextlib.contextmanager
def on_disk(images: Path | str | Any, folder: Path, what: str) -> Iterator[Path]:
    """Where images are: their path, or for the time being a file of an array. what: for messages, what they are."""
    if isinstance(images, str | os.PathLike):
        yield Path(images)
        return
    import numpy as np

    try:
        array = np.asarray(images)
        reason = f"not {array.dtype}" if array.dtype.hasobject else None
    except (TypeError, ValueError, RuntimeError) as error:  # lists of several shapes; a GPU's tensors
        array, reason = np.empty(0), one_line(error)
    if reason is not None:
        raise ConfigError(f"{what}=...: must be a folder, an .npz file, or an array of uint8 ({reason})")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "array.npz"
        np.savez(path, arr_0=array)
        yield path


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors of Hydra and OmegaConf, about settings, are GocErrors of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise GocError(one_line(error)) from error


def typed(settings: dict[str, Any]) -> list[str]:
    """Keywords as overrides, in Hydra's grammar; raises ConfigError for a value that it cannot hold."""
    overrides = []
    for key, value in settings.items():
        try:
            overrides.append(f"{key}={written(value)}")
        except TypeError as error:
            shown = " ".join(repr(value).split())
            allowed = "text, a number, or a list or dict of them"
            raise ConfigError(f"{key}={shown}: must be {allowed}, not {error}") from None
    return overrides


def written(value: Any) -> str:
    """A Python value in the grammar of Hydra's overrides, which arrives in a config as the same value.

    Raises TypeError, of what it is, for one that has no such form.
    """
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if not isinstance(text, str) or text == "???":
            raise TypeError("???, which says that a value is missing" if text == "???" else type(text).__name__)
        return QuotedString(literal(text), Quote.single).with_quotes()
    if isinstance(value, dict):
        return "{" + ",".join(f"{_written_key(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(type(value).__name__)


def _written_key(key: Any) -> str:
    """A dict's key, which Hydra's grammar has no quotes for; raises TypeError for one that would be read otherwise."""
    text = key if isinstance(key, str) else written(key)
    try:
        same = OverridesParser.create().parse_override(f"key={{{text}:0}}").value() == {key: 0}
    except HydraException:
        same = False
    if key is None or not same:  # OmegaConf has no such key
        raise TypeError(f"a dict with the key {key!r}")
    return text
