"""The options of the groups schedule, predictor, selection and method: typed settings in registries open to plugins."""

from goc.methods import predictors, schedules, selections  # noqa: F401  (their options enter themselves)
from goc.methods.base import (
    PREDICTORS,
    SCHEDULES,
    SELECTIONS,
    Cells,
    Partial,
    PredictorConfig,
    ScheduleConfig,
    SelectionConfig,
    Situation,
)
from goc.methods.published import METHODS, Method, add_method, name_of

__all__ = [
    "METHODS", "PREDICTORS", "SCHEDULES", "SELECTIONS", "Cells", "Method", "Partial", "PredictorConfig",
    "ScheduleConfig", "SelectionConfig", "Situation", "add_method", "name_of",
]  # fmt: skip
