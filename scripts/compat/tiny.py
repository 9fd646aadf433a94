"""Tiny random models of diffusers, and the arguments of one call of each: nothing is downloaded."""

import functools
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

# isort: split  (goc first: it lets torchvision, which diffusers imports, be imported)
from diffusers import ModelMixin
from diffusers.models import transformers as of_diffusers
from torch import Tensor

BLOCKS = 2  # of each list


@dataclass(frozen=True)
class Ask:
    """What a call is to be of.

    tokens: of the text. size: height and width of the latents. frames: of a video's latents. t: the timestep, in
    [0, 1000].
    """

    batch: int = 1
    tokens: int = 5
    size: int = 8
    frames: int = 2
    t: float = 500.0
    seed: int = 0

    def noise(self, *shape: int) -> Tensor:
        """Normal noise, which depends on the seed and the shape alone."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed + math.prod(shape)))

    def text(self, width: int) -> Tensor:
        """Embeddings of prompts, [batch, tokens, width]."""
        return self.noise(self.batch, self.tokens, width)

    def vector(self, width: int) -> Tensor:
        """One embedding a prompt, [batch, width]."""
        return self.noise(self.batch, width)

    def mask(self, kind: torch.dtype = torch.long) -> Tensor:
        """A mask of the text's tokens: all are there."""
        return torch.ones(self.batch, self.tokens, dtype=kind)

    def image(self, channels: int) -> Tensor:
        """Latents of images, [batch, channels, size, size]."""
        return self.noise(self.batch, channels, self.size, self.size)

    def video(self, channels: int) -> Tensor:
        """Latents of videos, [batch, channels, frames, size, size]."""
        return self.noise(self.batch, channels, self.frames, self.size, self.size)

    def masked_text(self, latents: Tensor) -> "Arguments":
        """The arguments of a call with a text and its mask: what most models are given, beside their own."""
        return {"hidden_states": latents, "timestep": self.step, "encoder_hidden_states": self.text(12),
                "encoder_attention_mask": self.mask()}  # fmt: skip

    def packed(self, channels: int) -> Tensor:
        """Latents as tokens, one for four of an image, [batch, size * size / 4, channels]."""
        return self.noise(self.batch, (self.size // 2) ** 2, channels)

    @property
    def step(self) -> Tensor:
        """The timestep of every sample, in [0, 1000]."""
        return torch.full((self.batch,), self.t)

    @property
    def time(self) -> Tensor:
        """The same in [0, 1]."""
        return self.step / 1000

    def grid(self, axes: int = 3) -> Tensor:
        """Positions of the tokens of packed latents, [tokens, axes], of which the last two count."""
        side = self.size // 2
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        positions = torch.zeros(side * side, axes)
        positions[:, -2], positions[:, -1] = rows.flatten(), columns.flatten()
        return positions

    def text_positions(self, axes: int = 3) -> Tensor:
        """Positions of the text's tokens: none."""
        return torch.zeros(self.tokens, axes)


Arguments = dict[str, Any]


@dataclass(frozen=True)
class Tiny:
    """A tiny model of a class of diffusers.

    config: its constructor's arguments. arguments: of one call. latents: the one that a sampler changes. residuals:
    arguments that a ControlNet or its like adds.
    """

    name: str
    family: str
    config: dict[str, Any]
    arguments: Callable[[Ask], Arguments]
    latents: str = "hidden_states"
    residuals: Callable[[Ask], Arguments] | None = None
    scale: float = 0.2  # of its weights

    @property
    def exists(self) -> bool:
        """Whether the installed diffusers has the class."""
        return self.name in classes()

    def build(self) -> Any:
        """The model, with random weights with which every block and branch changes the output."""
        return randomized(classes()[self.name](**self.config), self.scale)


ZOO: dict[str, Tiny] = {}


def tiny(
    name: str, family: str, *, latents: str = "hidden_states", residuals: Any = None, scale: float = 0.2, **config: Any
) -> Callable[[Callable[[Ask], Arguments]], Callable[[Ask], Arguments]]:
    """Register a function that makes a call's arguments, with what builds its model."""

    def register(arguments: Callable[[Ask], Arguments]) -> Callable[[Ask], Arguments]:
        ZOO[name] = Tiny(name, family, config, arguments, latents, residuals, scale)
        return arguments

    return register


def randomized(module: Any, scale: float = 0.2) -> Any:
    """A module with random weights, the same ones each time, that does not train."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module.float().eval().requires_grad_(False)


@functools.cache
def classes() -> dict[str, type]:
    """All models in diffusers.models.transformers of the installed version, by name."""
    return dict(sorted(_classes()))


def _classes() -> Iterator[tuple[str, type]]:
    for module in pkgutil.iter_modules(of_diffusers.__path__):
        inside = importlib.import_module(f"{of_diffusers.__name__}.{module.name}")
        for name, kind in vars(inside).items():
            if inspect.isclass(kind) and issubclass(kind, ModelMixin) and kind.__module__ == inside.__name__:
                yield name, kind
