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
    methods = {method.schedule: name for name, method in METHODS.items() if SCHEDULES[method.schedule].decides}
    chosen = {text: text.partition("=")[2].split(",") for text in replaced}
    for name in (name for names in chosen.values() for name in names):
        if name.strip() not in methods:
            raise ConfigError(f"{KEY}={name}: must be one of {', '.join(sorted(methods))}")
    for text in overrides:
        if text.lstrip("+").partition("=")[0] in CONTRADICTED:
            raise ConfigError(f"{replaced[0]}: is a method, and {text} another; must be one of them")
    as_method = {text: f"method={','.join(methods[name.strip()] for name in names)}" for text, names in chosen.items()}
    return [as_method.get(text, text) for text in overrides]
