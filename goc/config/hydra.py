"""Hydra's view of the settings: flat keys, groups, and the resolvers of folder names."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import PurePath
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from goc.config.automatic import settle
from goc.config.decisions import as_methods
from goc.config.identity import run_id, way_files
from goc.config.known import GROUPS, NOT_THERE, check_known, refused
from goc.config.settings import (
    OF_CFG_CACHE,
    OF_SECOND,
    SHAPE,
    Config,
    Execution,
    Measurement,
    ModelConfig,
    Output,
    Settings,
    Way,
)
from goc.config.validation import check_name, normalise
from goc.methods import METHODS
from goc.models.objective import DIFFUSION, FLOW, PIPELINE
from goc.models.registry import MODELS
from goc.system.errors import ConfigError
from goc.system.files import CONF, resolve
from goc.system.plugins import load_plugins

SMOKE_MODELS = {DIFFUSION: ["digits"], FLOW: ["digits", "digits_flow"], PIPELINE: []}
SMOKE_OF_PIPELINES: dict[str, Any] = {"metrics": []}  # whose features and references are the user's
MAY_DO_NOTHING = (
    "cache_ratio", "clock", "correct_steps", "inflection_threshold", "inflection_scope", "inflection_signal",
    "calibration_samples", "calibration_seed",
)  # fmt: skip
OPEN_MODELS = ("dit", "sit")  # of any shape, which the checkpoint tells
NO_SHAPE = dict.fromkeys(SHAPE, 0)  # of a plugin's network, as far as that says no number
NO_DENOISER = {**NO_SHAPE, "checkpoint": ""}  # of a pipeline, which is not asked for these


def embedded(name: str) -> DictConfig:
    """The keys that an embedded model's file sets in the group `model`."""
    file = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    assert isinstance(file, DictConfig)
    return file.get("model", file)


def from_hydra(node: DictConfig) -> Config:
    """The typed, normalised config of a Hydra config (which may hold Hydra's own node beside it).

    Raises ConfigError for a key that no setting has.
    """
    load_plugins(node.get("plugins") or ())
    check_known(node)
    if "hydra" in node:
        check_hydra(node.hydra)
    given = OmegaConf.masked_copy(node, [f.name for f in fields(Settings)])
    settings: list[Any] = [_schema(), given, {"name": literal(study_name(node))}]
    if node.model.get("network"):
        settings.insert(1, {"model": NO_SHAPE})
    if node.smoke:
        settings += [OmegaConf.load(CONF / "smoke.yaml"), {"model": {"network": None}}]
        settings += [{"model": embedded(name)} for name in SMOKE_MODELS.get(node.model.objective, ["digits"])]
        settings.append({"model": dict.fromkeys(OF_SECOND)})
    if node.model.objective == PIPELINE:
        settings += [{"model": NO_DENOISER}, *([SMOKE_OF_PIPELINES] if node.smoke else [])]
    typed = OmegaConf.to_object(OmegaConf.merge(*settings))

    def part(cls: type) -> Any:
        return cls(**{f.name: getattr(typed, f.name) for f in fields(cls)})

    config = Config(part(Measurement), part(Way), part(Execution), part(Output))
    read_shape(config.measurement.model)
    normalise(config.way, config.measurement)
    config.files = way_files(config.way, config.measurement)
    config.chosen = settle(config.execution, config.measurement, config.way)
    return config


def read_shape(model: ModelConfig) -> None:
    """Read an open model's shape, where it is 0, and its name from its checkpoint. Changes its argument."""
    if model.is_pipeline or model.network is not None or (model.in_channels, model.patch_size) != (0, 0):
        return
    from goc.models.shape import complete  # loads torch

    for name, value in complete(model.shape(), resolve(model.checkpoint)).items():
        setattr(model, name, value)
    if model.name in OPEN_MODELS:
        model.name = PurePath(model.checkpoint).stem


def compose_config(overrides: Sequence[str]) -> Config:
    """The config of settings as on run.py's command line."""
    return from_hydra(composed(overrides))


def composed(overrides: Sequence[str]) -> DictConfig:
    """Hydra's config of settings as on run.py's command line, without Hydra's own node."""
    check_form(overrides)
    register(overrides)
    overrides = as_methods(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"), refusing(overrides):
        return compose("config", overrides=list(overrides))


def check_form(overrides: Sequence[str]) -> None:
    """Raise ConfigError for the first text that is no KEY=VALUE, nor the ~KEY that takes a setting out."""
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not key.strip(" +~") or not (equals or key.startswith("~")):
            raise ConfigError(f"{text}: must be KEY=VALUE; --help lists settings")


@contextmanager
def refusing(overrides: Sequence[str]) -> Iterator[None]:
    """While Hydra composes overrides: a key that it does not know is refused as one that only `from_hydra` finds.

    So is a search path that is not there, of which Hydra would only warn. overrides: options may be among them.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=NOT_THERE.pattern)
            yield
    except Exception as error:
        if (refusal := refused(error, overrides)) is error:
            raise
        raise refusal from error


def check_hydra(node: Any) -> None:
    """Raise ConfigError for a setting of Hydra's own that it takes, and that no run or sweep can have."""
    if node.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=True: must be false; files are named from the folder where a command is typed"
        )
    size = OmegaConf.select(node, "sweeper.max_batch_size")
    if size is not None and not (isinstance(size, int) and size >= 1):
        raise ConfigError(f"hydra.sweeper.max_batch_size={size}: must be a whole number of at least 1, or null")


def without_effect(node: DictConfig, config: Config, overrides: Sequence[str]) -> list[str]:
    """A line for each setting of the way that was typed, and does nothing with the rest of it: another value is taken.

    overrides: the command line's. Without a cache none of a cache's does anything, and nothing is said.
    """
    typed = dict.fromkeys(text.lstrip("+").partition("=")[0] for text in overrides)
    off = () if config.way.cfg_cache else OF_CFG_CACHE[1:]
    lines = [f"{key}={node[key]}: has no effect without cfg_cache" for key in off if key in typed]
    if not config.way.schedule.caches():
        return lines
    if config.way.schedule.found:
        typed.pop("cache_ratio", None)  # its file may be named by how many steps it computes
    chosen = f"schedule={config.way.schedule.name} and predictor={config.way.predictor.name}"
    if config.way.correct_steps is not None:
        chosen += " and correct_steps"
    for key in typed:
        group, _, name = key.partition(".")
        if key in MAY_DO_NOTHING:
            nothing = node[key] is not None and node[key] != getattr(config.way, key)
        else:  # of an option that became another one, as gradient_weights=[] makes reuse of the gradient queue
            nothing = (
                group in ("schedule", "predictor") and bool(name) and not hasattr(getattr(config.way, group), name)
            )
        if nothing:
            lines.append(f"{key}={OmegaConf.select(node, key)}: has no effect with {chosen}")
    return lines


def literal(text: str) -> str:
    """A text as OmegaConf has to be given it, so that a `${` in it is one, and no interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def study_name(node: DictConfig) -> str:
    """The name of a study, which a smoke run does not share."""
    return f"{node.name}-smoke" if node.smoke else str(node.name)


def study(node: DictConfig) -> str:
    """The folder of a study below outputs/; raises ConfigError for a name that would lead out of it."""
    output = Output(name=study_name(node))
    check_name(output)
    return output.name


@cache
def _schema() -> DictConfig:
    """The typed settings with their defaults, which take long to make."""
    return OmegaConf.structured(Settings)


def named_plugins(overrides: Sequence[str]) -> list[str]:
    """The modules that plugins=[...] names on a command line: what they give is needed to compose the rest."""
    texts = [text for text in overrides if re.match(r"\+{0,2}plugins=", text)]
    try:
        values = [override.value() for override in OverridesParser.create().parse_overrides(texts)]
    except HydraException:  # Hydra says it in its turn
        return []
    lists = (value if isinstance(value, list) else [value] for value in values)
    return [str(name) for names in lists for name in names if name is not None]


KNOWN: dict[tuple[str | None, str], Any] = {}  # entries that Hydra has: all of them take it a fifth of composing


def make_known(group: str | None, name: str, entry: Any, node: Any, package: str | None = None) -> None:
    """Give Hydra what it composes for an entry of a group, unless it has that of this very entry."""
    if KNOWN.get((group, name)) is not entry:
        ConfigStore.instance().store(group=group, name=name, node=node, package=package)
        KNOWN[group, name] = entry


class Entries(dict[str, Any]):
    """All that Hydra's ConfigStore has. Composing copies the store, and each entry that it takes once more."""

    def __deepcopy__(self, memo: object) -> "Entries":
        return self


def register(overrides: Sequence[str] = ()) -> None:
    """Make the config known to Hydra: schema, groups with what plugins add, and the resolvers of folder names.

    overrides: a command line, which may name plugins. Raises ConfigError for one that cannot be imported.
    """
    load_plugins(named_plugins(overrides))
    store = ConfigStore.instance()
    if not isinstance(store.repo, Entries):
        store.repo = Entries(store.repo)
    make_known(None, "schema", Settings, Settings)
    for group, options in GROUPS.items():
        for name, option in options.items():
            make_known(group, name, option, option)
    for name, model in MODELS.items():
        make_known("model", name, model, model.node(name), package="_global_")
    for name, method in METHODS.items():
        make_known("method", name, method, method.node(), package="_global_")
    OmegaConf.register_new_resolver("run_id", lambda *, _root_: run_id(from_hydra(_root_)), replace=True)
    OmegaConf.register_new_resolver("study", lambda *, _root_: study(_root_), replace=True)
