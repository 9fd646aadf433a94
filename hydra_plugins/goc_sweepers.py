"""Hydra's hydra/sweeper=union: several grids, each with all of its combinations, as one sweep.

Hydra takes sweepers from the package hydra_plugins only. The jobs go to the launcher together, so that Slurm sees one
array and one report follows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from goc.system.errors import ConfigError


class UnionSweeper(BasicSweeper):
    """Hydra's own sweeper for a list of grids: the jobs of the first, then those of the second, and so on.

    What the command line sets applies on top of every grid, with all combinations as usual.
    """

    def __init__(self, grids: Sequence[Mapping[str, Any]] | None, max_batch_size: int | None = None) -> None:
        super().__init__(max_batch_size)
        check_grids(grids)
        self.grids = grids or []

    def split_arguments(  # type: ignore[override]  # static there, but called on the sweeper
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Batches of jobs, each a list of overrides: all jobs in one, or `max_batch_size` of them in each."""
        jobs: list[list[str]] = []
        for grid in self.grids:
            # of two overrides of a setting the last one counts, in the place of the first
            jobs += BasicSweeper.split_arguments([*self.parse(grid), *overrides], None)[0]
        return [jobs] if max_batch_size is None else list(self.split_overrides_to_chunks(jobs, max_batch_size))

    def parse(self, grid: Mapping[str, Any]) -> list[Override]:
        """A grid as overrides; raises ConfigError for what could not be one on the command line."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        try:
            return parser.parse_overrides([f"{setting}={choices}" for setting, choices in grid.items()])
        except OverrideParseException as error:
            where = "in hydra.sweeper.grids as on the command line"
            raise ConfigError(f"{error.override}: must be a setting and its choices, {where}") from error


def check_grids(grids: Any) -> None:
    """Raise ConfigError unless `grids` is a list of mappings, none of them empty, of settings to choices."""
    listed = grids if isinstance(grids, Sequence) and not isinstance(grids, str) else []
    if not listed or not all(is_grid(grid) for grid in listed):
        allowed = "a list of grids, each a mapping of settings to choices in one string"
        raise ConfigError(f"hydra.sweeper.grids={grids}: must be {allowed}, as in [{{method: none, steps: '10,20'}}]")


def is_grid(grid: Any) -> bool:
    """Whether this is a mapping with something in it, whose values are what a command line may have behind a `=`."""
    return isinstance(grid, Mapping) and bool(grid) and all(isinstance(v, str | int | float) for v in grid.values())
