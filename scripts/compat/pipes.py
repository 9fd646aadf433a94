"""Tiny pipelines of diffusers: their parts by what their constructors ask for, their arguments by name."""

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, pipelines
from torch import Tensor
from torch.utils._pytree import tree_map

from compat.checks import Result, check_site
from compat.loop import STEPS, tensors_of
from compat.parts import made
from compat.pixels import picture, video
from compat.special import SPECIALS, Special
from compat.tiny import Arguments, Ask, classes, randomized
from compat.zoo import ZOO


@functools.cache
def all_pipelines() -> dict[str, type]:
    """All pipelines of the installed diffusers that have a transformer, by name; not the deprecated ones."""
    kinds = {}
    for module in pkgutil.walk_packages(pipelines.__path__, f"{pipelines.__name__}."):
        if ".deprecated" in module.name:
            continue
        try:
            inside = importlib.import_module(module.name)
        except Exception:  # asks for a library that is not installed
            continue
        for name, kind in vars(inside).items():
            if inspect.isclass(kind) and issubclass(kind, DiffusionPipeline) and kind.__module__ == inside.__name__:
                kinds[name] = kind
    return {name: kind for name, kind in sorted(kinds.items()) if transformer_class(kind)}


def transformer_class(kind: type) -> str:
    """The class of a pipeline's transformer, by the annotation in its constructor; empty without one."""
    parameter = inspect.signature(kind).parameters.get("transformer")
    said = "" if parameter is None else annotation(parameter)
    return next((name for name in re.findall(r"\w+", said) if name in classes()), "")


def annotation(parameter: inspect.Parameter) -> str:
    """What a parameter is to be, as text."""
    return getattr(parameter.annotation, "__name__", "") + " " + str(parameter.annotation)


def family_of(name: str) -> str:
    """The family of a pipeline: its transformer's."""
    tiny = ZOO.get(transformer_class(class_of(name)))
    return "new" if tiny is None else tiny.family


def class_of(name: str) -> type:
    """A pipeline's class; diffusers itself has a dummy for one that asks for a library that is not installed."""
    kind = getattr(diffusers, name, None)
    return kind if inspect.isclass(kind) and issubclass(kind, DiffusionPipeline) else all_pipelines()[name]


def build(name: str) -> Any:
    """A tiny pipeline."""
    kind, special = class_of(name), SPECIALS.get(name, Special())
    parts: dict[str, Any] = {}
    for key, parameter in inspect.signature(kind).parameters.items():
        if key in special.parts:
            parts[key] = special.parts[key]()
        elif key == "transformer":
            tiny = ZOO[transformer_class(kind)]
            config = {**tiny.config, **special.config}
            parts[key] = randomized(classes()[tiny.name](**config), tiny.scale)
        elif parameter.default is inspect.Parameter.empty or key == "scheduler":
            parts[key] = made(key, annotation(parameter))
    for key, value in special.globals.items():
        setattr(importlib.import_module(kind.__module__), key, value)
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments(pipe: Any, ask: Ask, steps: int) -> Arguments:
    """Of a call, by the names in its signature."""
    name = type(pipe).__name__
    known = inspect.signature(type(pipe).__call__).parameters
    chosen = {key: value for key, value in usual(ask).items() if key in known}
    special = SPECIALS.get(name, Special())
    chosen |= special.call(ask)
    for key, method in special.methods(ask).items():
        setattr(pipe, key, method)
    chosen["generator"] = torch.Generator().manual_seed(7)
    if "num_inference_steps" in known:
        chosen["num_inference_steps"] = steps
    return {key: value for key, value in chosen.items() if key in known}


def usual(ask: Ask) -> Arguments:
    """Arguments that many pipelines have; ask.size: of an image in eights."""
    pixels = 8 * ask.size
    image = picture(ask)
    return {
        "prompt": None, "negative_prompt": None, "height": pixels, "width": pixels, "num_frames": 5, "frames": 5,
        "output_type": "latent", "guidance_scale": 3.0, "true_cfg_scale": 3.0, "use_resolution_binning": False,
        "prompt_embeds": ask.text(12), "negative_prompt_embeds": 0.5 * ask.text(12),
        "prompt_attention_mask": ask.mask(), "negative_prompt_attention_mask": ask.mask(),
        "prompt_embeds_mask": ask.mask(), "negative_prompt_embeds_mask": ask.mask(),
        "pooled_prompt_embeds": ask.vector(10), "negative_pooled_prompt_embeds": 0.5 * ask.vector(10),
        "image": image, "control_image": image, "mask_image": picture(ask, True), "control_mask": picture(ask, True),
        "strength": 0.9, "controlnet_conditioning_scale": 1.0, "video": video(ask), "control_video": video(ask),
        "clean_caption": False, "return_dict": False,
    }  # fmt: skip


OTHERS: tuple[dict[str, int], ...] = ({"tokens": 7}, {"batch": 2}, {"size": 12}, {"steps": 8})


class OfPipeline:
    """A tiny pipeline, as what is checked."""

    residuals: tuple[bool, ...] = ()
    half = 0.5, 0.8

    def __init__(self, pipe: Any, others: Sequence[dict[str, int]] = OTHERS, steps: int = STEPS) -> None:
        self.pipe, self.steps = pipe, steps
        self.others = [more for more in others if self.allows(more)]
        self.transformers = [pipe.transformer] if getattr(pipe, "transformer", None) is not None else []

    def allows(self, more: dict[str, int]) -> bool:
        """Whether the pipeline itself makes such a call; some make one image at a time, or of one size."""
        try:
            self.call(**more)
        except Exception:
            return False
        return True

    def still(self, residuals: bool) -> Tensor:
        raise NotImplementedError("a pipeline's steps differ")

    def call(self, steps: int | None = None, **more: int) -> Tensor:
        """What a pipeline gives, as one row of numbers."""
        torch.manual_seed(7)  # some encode a picture with noise that their generator does not make
        output = self.pipe(**arguments(self.pipe, Ask(**more), steps or self.steps))
        tensors = tensors_of(tree_map(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, output))
        return torch.cat([tensor.flatten().float() for tensor in tensors])


def check_pipeline(name: str, sites: Sequence[str]) -> dict[str, Result]:
    """The results of a pipeline at each site."""
    called = OfPipeline(build(name))
    if not called.call().isfinite().all():
        raise ValueError("not finite without a cache")
    return {site: check_site(called, site) for site in sites}
