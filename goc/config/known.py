"""Which settings there are: a key that none of them has is refused, with the nearest name, and so is a forged name.

Hydra refuses a mistyped key only without a `+`; what it lets through would change nothing, in silence.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, cast

from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from goc.config.settings import ModelConfig, Settings, WandbConfig
from goc.methods import PREDICTORS, SCHEDULES, SELECTIONS
from goc.sampling.options import SAMPLERS
from goc.system.errors import ConfigError
from goc.system.registry import Registry

GROUPS: dict[str, Registry[Any]] = {
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "predictor": PREDICTORS,
    "selection": SELECTIONS,
}
CHOSEN = ("model", "method", "experiment", *GROUPS)  # what Hydra composes, one option of each
PARTS: dict[str, type] = {"model": ModelConfig, "wandb": WandbConfig}
HYDRA = "hydra"
RESOLVERS = ("run_id", "study")  # of folder names, which come from the settings
IN_FILE = re.compile(r"^In '([^']+)': ")
OVERRIDE = re.compile(r"^(?:To append to your config use |Error merging override \+?)\+(.*)", re.MULTILINE)
NOT_THERE = re.compile(r"provider=hydra\.searchpath.*, path=(.*) is not available")
NAMES = re.compile(r"\w+=(?!null$|true$|false$)[^\W\d]", re.IGNORECASE)  # an option, where a group is chosen


def check_known(node: DictConfig) -> None:
    """Raise ConfigError for the first key of a composed config that is no setting, is not there, or holds no value.

    Hydra's own node is not looked at.
    """
    for key in node:
        if key != HYDRA:
            _check_key(node, str(key), "", Settings)
    there = set(node.keys())  # as `in` would resolve interpolations
    for f in fields(Settings):
        if f.name not in there:
            raise ConfigError(f"{f.name}: must be there; {f.name}=VALUE sets it, and nothing takes it out")
    for group, options in GROUPS.items():
        _check_option(node, group, options)


def _check_key(node: DictConfig, key: str, prefix: str, cls: type) -> None:
    """Refuse `node[key]` unless it is a field of a dataclass, and what is in it is known."""
    keys = {f.name: f for f in fields(cls)}
    if key not in keys:
        raise unknown(_leaf(prefix + key, node._get_node(key)), cls)
    if OmegaConf.is_missing(node, key):
        if keys[key].default not in (MISSING, NO_DEFAULT):
            raise ConfigError(f"{prefix}{key}=???: must have a value")
        return
    if OmegaConf.is_interpolation(node, key):
        text = str(cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))[key])
        if any(f"${{{resolver}:" in text for resolver in RESOLVERS):
            raise ConfigError(f"{prefix}{key}={text}: must not name what is made of the settings")
        return  # to_object gives it the key's type, or says that it has none
    value = node._get_node(key)
    kind = OmegaConf.get_type(value) if isinstance(value, DictConfig) else None
    if isinstance(value, DictConfig) and isinstance(kind, type) and is_dataclass(kind):
        for inner in value:
            _check_key(value, str(inner), f"{prefix}{key}.", kind)
    elif isinstance(value, DictConfig | ListConfig) and (missing := sorted(OmegaConf.missing_keys(value))):
        raise ConfigError(f"{missing[0]}=???: must have a value")
    elif isinstance(value, ListConfig) and _is_nested(value):
        raise ConfigError(f"{prefix}{key}={value}: must be a list of single values")


def _is_nested(values: ListConfig) -> bool:
    """Whether a list has lists or mappings in it, which OmegaConf takes for a list of numbers."""
    return not values._is_none() and any(
        isinstance(value, DictConfig | ListConfig) for value in values._iter_ex(resolve=False)
    )


def _check_option(node: DictConfig, group: str, options: Mapping[str, type]) -> None:
    """Refuse an option under a name of another: labels and folders would call it so."""
    if OmegaConf.is_missing(node, group):
        raise ConfigError(f"{group}: must be there; {group}=NAME chooses one of {', '.join(options)}")
    kind, name = OmegaConf.get_type(node[group]), node[group].name
    if options.get(name) is not kind:
        must = next((f"must be {key}" for key, option in options.items() if option is kind), "must be an option's")
        raise ConfigError(f"{group}.name={name}: {must}; {group}=NAME chooses one of {', '.join(options)}")


def _leaf(key: str, value: Any) -> str:
    """The one setting in nested mappings as it was typed, KEY=VALUE."""
    while isinstance(value, DictConfig) and not value._is_none() and not value._is_missing() and len(value) == 1:
        (inner,) = map(str, value)
        key, value = f"{key}.{inner}", value._get_node(inner)
    return f"{key}={value}"


def unknown(setting: str, cls: type) -> ConfigError:
    """The refusal of a setting that does not exist, KEY=VALUE; cls: the dataclass that lacks it."""
    return ConfigError(f"{setting}: no such setting{_hint(setting.partition('=')[0], cls)}")


def _hint(key: str, cls: type) -> str:
    """What was probably meant: the nearest setting; else what the chosen option has, and which one has such a key."""
    head, _, last = key.partition(".")
    group: Mapping[str, type] = GROUPS.get(head, {})
    chosen = next((name for name, option in group.items() if option is cls), None)
    if chosen is None:
        near = nearest(key)
        return f"; did you mean {near}?" if near else "; --help lists all"
    keys = [f.name for f in fields(cls) if f.name != "name"]
    if close := get_close_matches(last, keys, n=1):
        return f"; did you mean {head}.{close[0]}?"
    text = f"; {head}={chosen} has {', '.join(keys) if keys else 'none'}"
    others = [name for name, option in group.items() if last in (f.name for f in fields(option))]
    return text + (f", but {head}={' or '.join(others)} has it" if others else "")


def nearest(key: str) -> str | None:
    """The setting whose name is the most like a mistyped one: all of it, or what stands behind the last dot."""
    names = dict.fromkeys(every_key())
    last = {name.rpartition(".")[2]: name for name in reversed(names)}
    whole = get_close_matches(key, names, n=1, cutoff=0.7)
    ends = get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.7)
    return next(iter([*whole, *(last[end] for end in ends)]), None)


def every_key() -> Iterator[str]:
    """Names of all settings and groups, as users type them."""
    yield from CHOSEN
    yield from (f.name for f in fields(Settings))
    for part, cls in PARTS.items():
        yield from (f"{part}.{f.name}" for f in fields(cls))
    for group, options in GROUPS.items():
        yield from (f"{group}.{f.name}" for cls in options.values() for f in fields(cls) if f.name != "name")


def refused(error: Exception, overrides: Sequence[str]) -> Exception:
    """What to tell a user of an error of Hydra's in overrides: of an unknown key the same as `check_known` says."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        named = [text for text in overrides if text.partition("=")[0] in CHOSEN and not NAMES.match(text)]
        return ConfigError(f"{' '.join(named) or 'a group'}: must be the name of an option, as in method=goc")
    if isinstance(error, ValueError) and str(error).startswith(("Only one of", "Expecting one subcommand")):
        return ConfigError(str(error))  # of Hydra's options
    if isinstance(error, UserWarning) and (absent := NOT_THERE.search(str(error))):
        return ConfigError(f"hydra.searchpath={absent[1]}: is not there; must be folders, as in [file:///FOLDER]")
    if not isinstance(error, HydraException) or not isinstance(cause, OmegaConfBaseException):
        return error
    cls: Any = cause.object_type
    ours = {Settings, *PARTS.values(), *(option for options in GROUPS.values() for option in options.values())}
    if cls not in ours:
        return error  # Hydra's own keys are its own
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return error
    file, typed = IN_FILE.search(str(error)), OVERRIDE.search(str(error))
    refusal = unknown(typed[1] if typed else str(cause.full_key or cause.key), cls)
    return ConfigError(f"In '{file[1]}': {refusal}") if file else refusal
