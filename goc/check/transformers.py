"""Caches in transformers of diffusers (shapes.py), this project's and others': what is timed of them.

For `goc check` and scripts/benchmark.py pipelines. All contenders share a transformer's random weights, and go through
the same steps of a loop that is a pipeline's without its text encoders and decoder.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

# isort: split  (goc first: it lets torchvision, which diffusers imports, be imported)
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
    DiTWithCache,
    add_cache_dit,
    add_first_block,
    add_taylorseer,
    predicted,
    reason,
)
from goc.check.shapes import Shape
from goc.models.network import Site
from goc.pipelines.enable import attach
from goc.pipelines.session import PipelineCache, Run

BASELINE = "none"


@dataclass(frozen=True)
class PipelineLoad:
    """What every contender has to do: a shape on its device, the samples, the steps.

    base: a transformer of the shape.
    """

    shape: Shape
    base: Any
    batch: int
    steps: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    compiled: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the features."""
        return self.shape.tokens

    def model(self) -> Any:
        """A copy of the base that has its tensors."""
        shared = (*self.base.parameters(), *self.base.buffers())
        return copy.deepcopy(self.base, {id(tensor): tensor for tensor in shared})


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
        x = torch.randn(self.load.batch, *self.load.shape.noise).to(self.load.device, self.load.dtype)
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
    half, dtype, shape = evenly(0.5), load.dtype, load.shape
    caches: Sequence[tuple[str, CachedSteps, Callable[[Tensor], Predictor], Site]] = [
        ("idle", never, Reuse, "branch"),
        ("reuse 50 %", half, Reuse, "branch"),
        ("goc 50 %", half, goc_queue, "branch"),
        (f"taylorseer {INTERVAL}", seer, seer_taylor, "branch"),
        ("reuse stack 50 %", half, Reuse, "stack"),
        ("goc stack 50 %", half, goc_queue, "stack"),
        (f"taylorseer stack {INTERVAL}", seer, seer_taylor, "stack"),
    ]
    yield Diffusers(BASELINE, load)
    for name, cached_steps, predictor, site in caches:
        yield Project(name, load, cached_steps, predictor, site)
    makers: Sequence[tuple[str, Callable[[str], Contender]]] = [
        ("diffusers taylorseer", lambda name: Hooked(
            name, load, predicted, lambda model: add_taylorseer(model, *shape.branches, dtype))),
        ("diffusers taylorseer lite", lambda name: Hooked(
            name, load, predicted, lambda model: add_taylorseer(model, *shape.last, dtype))),
        ("diffusers first block 50 %", lambda name: Hooked(
            name, load, half, lambda model: add_first_block(model, getattr(model, shape.first)))),
        ("cache-dit 50 %", lambda name: CacheDiT(name, load, half, 0)),
        ("cache-dit taylor 50 %", lambda name: CacheDiT(name, load, half, ORDER)),
    ]  # fmt: skip
    for name, make in makers:
        try:
            yield make(name)
        except Exception as error:  # whatever goes wrong in another project is this row's result
            yield name, reason(error)
