"""What scripts/benchmark.py pipelines compares: caches in transformers of diffusers, this project's and others'.

DiT and FLUX, small and with random weights; all contenders share a transformer's tensors, and go through the same steps
of a loop that is a pipeline's without its text encoders and decoder.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

# isort: split  (goc first: it lets torchvision, which diffusers imports, be imported)
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from goc.caching.cache import ScheduledCache
from goc.caching.predictor import Predictor, Reuse
from goc.caching.schedule import whole_steps
from goc.check.contenders import (
    INTERVAL,
    ORDER,
    CachedSteps,
    Contender,
    Entry,
    evenly,
    goc_queue,
    never,
    seer,
    seer_taylor,
)
from goc.check.peers import (
    BLOCK,
    DiTWithCache,
    add_cache_dit,
    add_first_block,
    add_taylorseer,
    predicted,
    reason,
)
from goc.models.network import Site
from goc.pipelines.enable import attach
from goc.pipelines.session import PipelineCache, Run

BASELINE = "none"
TEXT, SIDE = 64, 16  # tokens of FLUX's text, and image tokens a side of both
HEADS, HEAD = 4, 64
FLUX_BLOCK = r"single_transformer_blocks\.\d+"


@dataclass(frozen=True)
class Shape:
    """A transformer that everyone works on.

    make: builds it, with random weights. call: from it, the input and a timestep, its output. branches: patterns of the
    modules that diffusers' TaylorSeer predicts, and of those that it leaves out. last: the layer whose output "lite"
    predicts in place of all blocks, and the blocks' patterns.
    """

    name: str
    make: Callable[[], Any]
    call: Callable[[Any, Tensor, Tensor], Tensor]
    noise: Callable[[int], Tensor]
    tokens: tuple[int, ...]
    branches: tuple[list[str], list[str] | None]
    last: tuple[list[str], list[str]]


def make_dit() -> Any:
    """Four blocks of 256 channels on the 256 tokens of DiT-S/2 at 256x256."""
    return DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD, in_channels=4, out_channels=8, num_layers=4,
        sample_size=2 * SIDE, patch_size=2, num_embeds_ada_norm=1000, norm_eps=1e-6,
    )  # fmt: skip


def call_dit(model: Any, x: Tensor, t: Tensor) -> Tensor:
    """The noise that DiT finds in x [N, 4, 32, 32]."""
    labels = torch.arange(len(x), device=x.device)
    return model(x, timestep=t.expand(len(x)), class_labels=labels, return_dict=False)[0][:, :4]


def make_flux() -> Any:
    """Five blocks of 256 channels, double and single ones as in FLUX, on 256 image and 64 text tokens."""
    return FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=3, attention_head_dim=HEAD, num_attention_heads=HEADS,
        joint_attention_dim=64, pooled_projection_dim=64, axes_dims_rope=(16, 24, 24),
    )  # fmt: skip


def call_flux(model: Any, x: Tensor, t: Tensor) -> Tensor:
    """The velocity that FLUX finds for x [N, tokens, 64]."""
    places = torch.cartesian_prod(torch.arange(1), torch.arange(SIDE), torch.arange(SIDE)).to(x)
    return model(
        hidden_states=x,
        timestep=t.expand(len(x)) / 1000,
        encoder_hidden_states=x.new_ones(len(x), TEXT, 64),
        pooled_projections=x.new_ones(len(x), 64),
        img_ids=places,
        txt_ids=x.new_zeros(TEXT, 3),
        return_dict=False,
    )[0]


SHAPES = (
    Shape(
        "dit", make_dit, call_dit, lambda batch: torch.randn(batch, 4, 2 * SIDE, 2 * SIDE), (SIDE**2,),
        branches=([rf"{BLOCK}\.(attn1|ff)"], None), last=(["proj_out_2"], [BLOCK]),
    ),
    Shape(
        "flux", make_flux, call_flux, lambda batch: torch.randn(batch, SIDE**2, 64), (SIDE**2, TEXT, SIDE**2 + TEXT),
        branches=([rf"{BLOCK}\.(attn|ff|ff_context)", rf"{FLUX_BLOCK}\.proj_out"],
                  [rf"{FLUX_BLOCK}\.(attn|proj_mlp)"]),
        last=(["proj_out"], [BLOCK, FLUX_BLOCK]),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class PipelineLoad:
    """What every contender has to do: a shape on its device, the samples, the steps."""

    shape: Shape
    weights: dict[str, Tensor]
    batch: int
    steps: int
    device: torch.device
    compiled: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the features."""
        return self.shape.tokens

    def model(self) -> Any:
        """A transformer on the weights' tensors."""
        model = self.shape.make().to(self.device)
        model.load_state_dict(self.weights, assign=True)
        return model.eval().requires_grad_(False)


class Loop:
    """As much of a pipeline as a cache needs."""

    def __init__(self, transformer: nn.Module, steps: int) -> None:
        self.transformer = transformer
        self.scheduler = SimpleNamespace(timesteps=torch.linspace(999, 1, steps))

    def __call__(self) -> None:
        """A pipeline is called; here the steps are taken one by one, inside of `PipelineCache.call`."""


class Diffusers(Contender):
    """A transformer, bare or with a cache; a step was cached if the last block's attention did not run."""

    def __init__(self, name: str, load: PipelineLoad, cached_steps: CachedSteps = never) -> None:
        super().__init__(name, cached_steps, BASELINE)
        self.load, self.model = load, load.model()
        self.loop = Loop(self.model, load.steps)
        self.computed = False
        last = [module for name, module in self.model.named_modules() if name.endswith("to_q")][-1]
        last.register_forward_pre_hook(lambda *_: setattr(self, "computed", True))

    def was_cached(self) -> bool:
        return not self.computed

    def start(self) -> Iterator[Tensor]:
        self.drop()
        torch.manual_seed(0)
        x = self.load.shape.noise(self.load.batch).to(self.load.device)
        with self.sampling():
            for step, t in enumerate(self.loop.scheduler.timesteps.to(x)):
                self.computed = False
                with self.calling(step):
                    x = x - self.load.shape.call(self.model, x, t) / self.load.steps
                yield x

    def sampling(self) -> contextlib.AbstractContextManager[None]:
        """What all steps are to run in."""
        return contextlib.nullcontext()

    def calling(self, step: int) -> contextlib.AbstractContextManager[None]:
        """What a step is to run in."""
        return contextlib.nullcontext()

    def drop(self) -> None:
        """Without a cache, nothing is left."""


class Project(Diffusers):
    """A cache of this project in the transformer."""

    def __init__(
        self,
        name: str,
        load: PipelineLoad,
        cached_steps: CachedSteps,
        predictor: Callable[[Tensor], Predictor],
        site: Site = "branch",
    ) -> None:
        super().__init__(name, load, cached_steps)

        def new_cache(run: Run) -> ScheduledCache:
            mask = whole_steps(cached_steps(run.steps), run.steps, run.layout.depth)
            spread = run.layout.spread(mask[:, :1, :1] if site == "stack" else mask)
            return ScheduledCache(spread, predictor(spread), site)

        self.cache: PipelineCache = attach(self.loop, new_cache, site=site)

    def sampling(self) -> contextlib.AbstractContextManager[None]:
        return self.cache.call()


class Hooked(Diffusers):
    """One of diffusers' own caches."""

    foreign = True

    def __init__(self, name: str, load: PipelineLoad, cached_steps: CachedSteps, add: Callable[[Any], Any]) -> None:
        super().__init__(name, load, cached_steps)
        if not isinstance(self.model, CacheMixin):  # which DiT's class was not given
            self.model.__class__ = DiTWithCache
        self.cached, self.head = set(cached_steps(load.steps)), add(self.model)

    def calling(self, step: int) -> contextlib.AbstractContextManager[None]:
        if self.head is not None:  # a first block's hook is told what it is to find
            self.head.threshold = float("inf") if step in self.cached else -1.0
        return self.model.cache_context("all")

    def drop(self) -> None:
        self.model._reset_stateful_cache()


class CacheDiT(Diffusers):
    """cache-dit's DBCache."""

    foreign = True

    def __init__(self, name: str, load: PipelineLoad, cached_steps: CachedSteps, order: int) -> None:
        super().__init__(name, load, cached_steps)
        self.drop_context = add_cache_dit(self.model, load.steps, cached_steps(load.steps), order)

    def drop(self) -> None:
        self.drop_context()


def contenders(load: PipelineLoad) -> Iterator[Entry]:
    """Every row of a shape, or (its name, why there is none)."""
    half, dtype, shape = evenly(0.5), torch.float32, load.shape
    own: Sequence[tuple[str, CachedSteps, Callable[[Tensor], Predictor], Site]] = [
        ("idle", never, Reuse, "branch"),
        ("reuse 50 %", half, Reuse, "branch"),
        ("goc 50 %", half, goc_queue, "branch"),
        (f"taylorseer {INTERVAL}", seer, seer_taylor, "branch"),
        ("reuse stack 50 %", half, Reuse, "stack"),
        ("goc stack 50 %", half, goc_queue, "stack"),
        (f"taylorseer stack {INTERVAL}", seer, seer_taylor, "stack"),
    ]
    yield Diffusers(BASELINE, load)
    for name, cached_steps, predictor, site in own:
        yield Project(name, load, cached_steps, predictor, site)
    makers: Sequence[tuple[str, Callable[[str], Contender]]] = [
        ("diffusers taylorseer", lambda name: Hooked(
            name, load, predicted, lambda model: add_taylorseer(model, *shape.branches, dtype))),
        ("diffusers taylorseer lite", lambda name: Hooked(
            name, load, predicted, lambda model: add_taylorseer(model, *shape.last, dtype))),
        ("diffusers first block 50 %", lambda name: Hooked(
            name, load, half, lambda model: add_first_block(model, model.transformer_blocks))),
        ("cache-dit 50 %", lambda name: CacheDiT(name, load, half, 0)),
        ("cache-dit taylor 50 %", lambda name: CacheDiT(name, load, half, ORDER)),
    ]  # fmt: skip
    for name, make in makers:
        try:
            yield make(name)
        except Exception as error:  # whatever goes wrong in another project is this row's result
            yield name, reason(error)
