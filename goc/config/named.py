"""A named method with some of its settings as a way, without Hydra: what a row of a table of results says."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from goc.config.settings import Way
from goc.config.validation import normalise
from goc.methods import METHODS, PREDICTORS, SCHEDULES, SELECTIONS, Method
from goc.methods.base import Partial, Situation
from goc.sampling.options import SAMPLERS, SamplerConfig
from goc.system.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from goc.models.cost import Partly
    from goc.models.dit import DiT


class NotMeasuredError(Exception):
    """A schedule asks for what is measured of a model."""


def is_here(method: str, sampler: str) -> bool:
    """Whether this project has a method of this name, and a sampler."""
    return method in METHODS and sampler in SAMPLERS


def unset(method: Method, sampler: SamplerConfig, steps: int) -> Way:
    """The way of a method, of which nothing is set or settled."""
    return Way(
        steps=steps, sampler=sampler, schedule=SCHEDULES[method.schedule](),
        predictor=PREDICTORS[method.predictor](**method.settings), selection=SELECTIONS[method.selection](),
        site=method.site, clock=method.clock,
    )  # fmt: skip


def way_of(method: str, settings: Sequence[str], sampler: str, steps: int) -> Way:
    """The normalised way of a method with settings as on a command line; raises ConfigError for one that it lacks."""
    try:
        defaults = OmegaConf.structured(unset(METHODS[method], SAMPLERS[sampler](), steps))
        way = OmegaConf.to_object(OmegaConf.merge(defaults, OmegaConf.from_dotlist(list(settings))))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{' '.join(settings)}: {str(error).splitlines()[0]}") from error
    assert isinstance(way, Way)
    normalise(way)
    way.schedule.check(way.num_evaluations)
    way.predictor.check()
    return way


def fixed_cells(way: Way, model: "DiT") -> "tuple[Tensor, Partly] | None":
    """The cells that a way caches on a model, bool [evaluations, depth, 2], and what of them is computed after all.

    None: that is trained, measured of a model, or decided as it runs.
    """
    if way.schedule.trained or way.schedule.decides:
        return None
    from goc.caching.selection import partly_of

    def unmeasured(*_: Any) -> Any:
        raise NotMeasuredError

    measured = ("branch_errors", "input_changes", "magnitude_ratios", "products", "search")
    situation = Situation(
        steps=way.num_evaluations,
        depth=model.depth,
        cache_ratio=way.cache_ratio or 0.0,
        model="",
        sampler=way.sampler.name,
        router=None,
        extrapolates=way.predictor.extrapolates,
        clock=None,
        **dict.fromkeys(measured, unmeasured),
    )
    try:
        mask = way.schedule.mask(situation)
    except NotMeasuredError:
        return None
    skipped = way.schedule.skipped(len(mask), lambda: situation)
    selection = way.selection.build(Partial(mask, skipped))
    return mask, partly_of(selection, mask, skipped, model)


def setting_of(settings: Mapping[str, Any], key: str) -> Any:
    """A setting by the key that users type, in the settings that a result holds; None if it is not there."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
