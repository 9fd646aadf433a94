"""The group `model`: the models that plugins add to the files of conf/model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from goc.system.registry import Registry


@dataclass(frozen=True)
class Model:
    """A denoiser of a plugin. settings: keys of the group `model` (goc run --help); sampler: the default beside it.

    Of the settings, network="module:class" names a `goc.plugin.Network` of its own, which is made with the numbers of
    its shape that the settings say: input_size, in_channels and num_classes, and those of DiT's others that it takes.
    """

    settings: Mapping[str, Any]
    sampler: str | None = None

    def node(self, name: str) -> dict[str, Any]:
        """What Hydra composes for it, in the package _global_."""
        chosen = [] if self.sampler is None else [{"override /sampler": self.sampler}]
        return {"defaults": chosen, "model": {"name": name, **self.settings}}


MODELS: Registry[Model] = Registry("model")


def add_model(name: str, model: Model, module: str) -> Model:
    """Enter a model under a name; `module` gives it."""
    return MODELS.add(name, model, module)
