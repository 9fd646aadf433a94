"""The options of the groups schedule, predictor and method, as typed settings in registries open to plugins."""

from goc.methods import predictors, schedules  # noqa: F401  (their options enter themselves)
from goc.methods.base import PREDICTORS, SCHEDULES, Cells, PredictorConfig, ScheduleConfig, Situation
from goc.methods.published import METHODS, Method, add_method, name_of

__all__ = [
    "METHODS",
    "PREDICTORS",
    "SCHEDULES",
    "Cells",
    "Method",
    "PredictorConfig",
    "ScheduleConfig",
    "Situation",
    "add_method",
    "name_of",
]
