"""`decision=NAME`: a method whose schedule decides as it runs, where users look for one beside the schedule."""

from collections.abc import Sequence

from goc.methods import METHODS, SCHEDULES
from goc.system.errors import ConfigError

KEY = "decision"
CONTRADICTED = ("method", "schedule")


def as_methods(overrides: Sequence[str]) -> list[str]:
    """A command line with `method=NAME` for `decision=NAME`; raises ConfigError for another name, or beside one."""
    replaced = [text for text in overrides if text.lstrip("+").partition("=")[0] == KEY]
    if not replaced:
        return list(overrides)
    names = [name for name, method in METHODS.items() if SCHEDULES[method.schedule].decides]
    for text in replaced:
        if unknown := [name for name in text.partition("=")[2].split(",") if name.strip() not in names]:
            raise ConfigError(f"{KEY}={unknown[0]}: must be one of {', '.join(sorted(names))}")
    for text in overrides:
        if text.lstrip("+").partition("=")[0] in CONTRADICTED:
            raise ConfigError(f"{replaced[0]}: is a method, and {text} another; must be one of them")
    return [f"method={text.partition('=')[2]}" if text in replaced else text for text in overrides]
