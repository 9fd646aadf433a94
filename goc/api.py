"""Runs, sweeps and comparisons from Python: what `python run.py` does, with results as objects."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString, Quote

from goc.config import Config, compose_config, run_id, validate
from goc.report.result import Result
from goc.report.results import record_failure
from goc.system.errors import GocError, one_line

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = Path("outputs")

log = logging.getLogger(__name__)


def run(*overrides: str, **settings: Any) -> Result:
    """Carry out one run and return its result; a finished one is only read back.

        goc.run("method=goc", "cache_ratio=0.5", num_samples=200)

    overrides: as on run.py's command line. settings: the same as keywords, whose values are Python's; a nested one by
    `**{"model.call.height": 512}`. Files go to outputs/NAME/RUN below the working folder, as run.py's. Raises GocError
    for what the user can solve.
    """
    return carry_out(configured([*overrides, *typed(settings)]))


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, in the order in which they were made, and why others failed, by their settings."""

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
    """Carry out every combination of the settings, one after the other, and write their report.

        goc.sweep("method=none,reuse,goc", "cache_ratio=0.25,0.5", name="mine")

    overrides: as on run.py's command line with -m: a comma separates values to try. settings: as `run`'s, the same in
    every run. A run that fails does not stop the others: its reason is in `failed`, and in its folder. Raises GocError
    if all of them fail.
    """
    from goc.report.study import main as report

    own, results, failed = typed(settings), [], {}
    folder = OUTPUTS / compose_config([*_first(overrides), *own]).output.name
    for job in combinations(overrides):
        try:
            config = configured([*job, *own])
        except GocError as error:
            failed[" ".join(job)] = one_line(error)
            continue
        try:
            results.append(carry_out(config))
        except (GocError, OSError) as error:
            record_failure(OUTPUTS / config.output.name / run_id(config), error, traceback.format_exc())
            failed[" ".join(job)] = one_line(error)
    if not results:
        raise GocError(f"every run of the sweep failed: {next(iter(failed.values()), 'there is none')}")
    report([str(folder)])
    return Sweep(folder, tuple(results), failed)


def compare(first: Result | Path | str, second: Result | Path | str) -> pd.DataFrame:
    """Every number that two runs have: the first's, the second's, their difference with its paired error, a verdict.

    Runs are results or their folders. Raises GocError for runs of different measurements.
    """
    from goc.report.compare import comparison, require_comparable
    from goc.report.pairs import points_of

    results = [run if isinstance(run, Result) else Result.load(run) for run in (first, second)]
    require_comparable(*(dict(result.content) for result in results))
    points = [next(iter(points_of([(result.folder, dict(result.content))]).values())) for result in results]
    return comparison(*points)


def configured(overrides: Sequence[str]) -> Config:
    """The valid config of overrides; raises GocError."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = compose_config(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise GocError(one_line(error)) from error
    validate(config)
    return config


def carry_out(config: Config) -> Result:
    """The result of a valid config, in its folder below outputs/."""
    from goc.experiment import run as run_one

    folder = OUTPUTS / config.output.name / run_id(config)
    content = run_one(config, folder)
    if content is None:  # a worker that does not lead
        return Result.load(folder)
    return Result(folder, content)


def typed(settings: dict[str, Any]) -> list[str]:
    """Keywords as overrides, in Hydra's grammar."""
    return [f"{key}={written(value)}" for key, value in settings.items()]


def written(value: Any) -> str:
    """A Python value in the grammar of Hydra's overrides, which reads back as the same value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return QuotedString(str(value), Quote.single).with_quotes()
    if isinstance(value, dict):
        return "{" + ",".join(f"{written(str(key))}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(written, value)) + "]"
    return repr(value)


def combinations(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Every combination of the values that overrides list, each as overrides of one value."""
    axes = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        values = override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
        axes.append([f"{key}={value}" for value in values])
    yield from (list(job) for job in product(*axes))


def _first(overrides: Sequence[str]) -> list[str]:
    return next(combinations(overrides))
