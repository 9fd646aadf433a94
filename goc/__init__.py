"""Benchmarking feature caching for diffusion transformers: Gradient-Optimized Cache and its peers."""

from typing import TYPE_CHECKING, Any

from goc.system.lazy import LazyModule
from goc.system.torchvision import mend_import

if TYPE_CHECKING:
    from goc.api import Sweep, compare, run, score, sweep
    from goc.pipelines.calibrate import calibrate
    from goc.pipelines.enable import attach, disable_cache, enable_cache
    from goc.pipelines.plan_file import load_plan
    from goc.report.result import Result

__all__ = [
    "Result",
    "Sweep",
    "attach",
    "calibrate",
    "compare",
    "disable_cache",
    "enable_cache",
    "load_plan",
    "run",
    "score",
    "sweep",
]

__version__ = "0.1.0"

mend_import()  # here, as users go on with `from diffusers import ...`

_HOMES = {
    **dict.fromkeys(("Sweep", "compare", "run", "score", "sweep"), LazyModule("goc.api")),
    "Result": LazyModule("goc.report.result"),
    "calibrate": LazyModule("goc.pipelines.calibrate"),
    "load_plan": LazyModule("goc.pipelines.plan_file"),
    **dict.fromkeys(("attach", "disable_cache", "enable_cache"), LazyModule("goc.pipelines.enable")),
}


def __getattr__(name: str) -> Any:
    """The few names for users of a pipeline, which load torch and diffusers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_HOMES[name], name)
