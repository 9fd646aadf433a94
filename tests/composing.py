"""Configs of settings as on a command line, in a quarter of the time: Hydra composes each choice of groups once."""

from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from goc.config import Config, compose_config, from_hydra
from goc.config.decisions import KEY
from goc.config.hydra import composed
from goc.config.known import CHOSEN, HYDRA


@cache
def of_groups(choices: tuple[str, ...]) -> DictConfig:
    return composed(choices)


def config_of(*settings: str) -> Config:
    """What `compose_config` gives: a value of a setting that the groups have is put where they are composed.

    All that Hydra refuses by itself it is asked for.
    """
    try:
        typed = OverridesParser.create().parse_overrides(list(settings))
        values = [one for one in typed if one.key_or_group not in (*CHOSEN, KEY)]
        node = of_groups(tuple(one.input_line for one in typed if one not in values)).copy()
        for one in values:
            key = one.key_or_group
            if one.is_delete() or one.is_add() or one.is_sweep_override() or one.package or key.startswith(HYDRA):
                return compose_config(settings)
            if OmegaConf.is_missing(node, key) or not there(node, key):
                return compose_config(settings)
            OmegaConf.update(node, key, one.value())
    except Exception:  # as only Hydra's own composing words it
        return compose_config(settings)
    return from_hydra(node)


def there(node: DictConfig, key: str) -> bool:
    """Whether a composed config has a key, be it null."""
    head, _, leaf = key.rpartition(".")
    parent = OmegaConf.select(node, head) if head else node
    return isinstance(parent, DictConfig) and leaf in parent.keys()  # noqa: SIM118  # `in` resolves interpolations
