"""The sweepers: Hydra's own, which checks all jobs first, and hydra/sweeper=union: several grids as one sweep.

Hydra takes sweepers from the package hydra_plugins only. The jobs go to the launcher together, so that Slurm sees one
array and one report follows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from goc.system.errors import ConfigError, GocError, one_line

LISTED = 8  # jobs that are told one by one

log = logging.getLogger(__name__)


class CheckedSweeper(BasicSweeper):
    """Hydra's own sweeper, which says before the first job runs which of them will be refused; the others do run."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose and check each job; raises what Hydra raises for one that cannot be composed."""
        from goc.config import from_hydra, validate  # not at every start, as Hydra imports all its plugins

        assert self.hydra_context is not None
        assert self.config is not None
        refused = []
        for overrides in batch:
            node = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            try:
                validate(from_hydra(node))
            except (GocError, HydraException, OmegaConfBaseException) as error:
                refused.append(f"{one_line(error)}  ({' '.join(filter_overrides(overrides))})")
        for line in refused[:LISTED]:
            log.warning("WARNING: a job will be refused: %s", line)
        if len(refused) > LISTED:
            log.warning("WARNING: and %d more of %d jobs", len(refused) - LISTED, len(batch))


@dataclass
class CheckedSweeperConf(BasicSweeperConf):
    """The settings of Hydra's own sweeper."""

    _target_: str = f"{__name__}.{CheckedSweeper.__name__}"


# in the place of Hydra's own, which is stored when it is imported above
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=CheckedSweeperConf, provider="goc")


class UnionSweeper(CheckedSweeper):
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
