"""What a plugin is made of: everything that a method, a solver, a metric or a model of your own needs to import.

    from goc.plugin import ScheduleConfig, schedule

    @schedule
    @dataclass
    class Mine(ScheduleConfig):
        "One line of help."
        name: str = "mine"
        def mask(self, situation): ...

A package that is installed with the entry point group `goc.plugins`, or a module named by plugins=[my_module], is
imported in every process; `python run.py schedule=mine` then works as with a built-in one. docs/examples/plugin is a
whole package, docs/examples/network one with a network of its own. Nothing here imports torch, but for `Network`, which
is the base of networks: what computes is imported inside of functions, or named `module:object`.
"""

from typing import TYPE_CHECKING, Any

from goc.methods import (
    PREDICTORS,
    SCHEDULES,
    SELECTIONS,
    Cells,
    Method,
    Partial,
    PredictorConfig,
    ScheduleConfig,
    SelectionConfig,
    Situation,
)
from goc.methods import add_method as method
from goc.metrics.columns import Column
from goc.metrics.registry import Metric, higher, lower
from goc.metrics.registry import add_metric as metric
from goc.models.registry import Model
from goc.models.registry import add_model as model
from goc.sampling.options import SAMPLERS, SamplerConfig
from goc.system.errors import ConfigError

if TYPE_CHECKING:
    from goc.models.network import Network as Network

schedule, predictor, selection = SCHEDULES.register, PREDICTORS.register, SELECTIONS.register
sampler = SAMPLERS.register

__all__ = [
    "Cells", "Column", "ConfigError", "Method", "Metric", "Model", "Partial", "PredictorConfig", "SamplerConfig",
    "ScheduleConfig", "SelectionConfig", "Situation", "higher", "lower", "method", "metric", "model", "predictor",
    "sampler", "schedule", "selection",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`Network`, which loads torch, and so is not among the names of `import *`."""
    if name != "Network":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from goc.models.network import Network

    return Network
