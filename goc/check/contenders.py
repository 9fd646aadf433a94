"""What scripts/benchmark.py steps compares: the project's caches, and the same two methods written as in a textbook.

A contender starts trajectories of the same samples, of which every step is timed, and says of each step whether it was
a cached one. Peers from the package index are in peers.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from goc.caching.cache import ScheduledCache, StepCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.caching.schedule import cached_steps_of, taylorseer, uniform, whole_steps
from goc.models.dit import DiT, DiTBlock, modulate
from goc.models.network import ATTENTION, MLP, Site
from goc.sampling.generation import Generation
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM

GRADIENT_WEIGHT = 1.2  # the paper's
INTERVAL, ORDER = 4, 2  # of TaylorSeer

CachedSteps = Callable[[int], list[int]]  # number of steps -> the cached ones


class Load(Protocol):
    """What is timed: so many steps of a batch on a device.

    tokens: numbers of tokens that features [N, tokens, hidden] have, by which tensors that are held are known.
    """

    @property
    def batch(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def compiled(self) -> bool: ...

    @property
    def tokens(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Workload:
    """What every contender has to do: the model on its device, the samples, the steps."""

    model: DiT
    batch: int  # images; with guidance, twice as many go through the model
    cfg_scale: float
    steps: int
    device: torch.device
    autocast: torch.dtype | None = None
    compiled: bool = False  # the model's branches are, and so the textbook's are to be

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the model's features."""
        return (self.model.num_tokens,)

    def generation(self) -> Generation:
        """The project's sampler (DDIM) on this model, without decoder."""
        return Generation(
            model=self.model,
            solver=DDIM(NoiseSchedule.respaced(self.steps)),
            cfg_scale=self.cfg_scale,
            cfg_channels=3,
            seed=0,
            decode=lambda latents: latents,
            device=self.device,
            autocast=self.autocast,
        )


class Contender(ABC):
    """One row of the table.

    Args:
        name: the row's.
        cached_steps: which steps of a trajectory are cached; must be what `was_cached` finds.
        baseline: name of the row with the same model uncached, which speed-ups are measured against.

    foreign: whether it is of another project, so that whatever goes wrong in it is its row's result.
    """

    foreign = False

    def __init__(self, name: str, cached_steps: CachedSteps, baseline: str) -> None:
        self.name, self.cached_steps, self.baseline = name, cached_steps, baseline

    @abstractmethod
    def start(self) -> Iterator[Tensor]:
        """A trajectory of the workload from its first step, with empty caches: x [n, C, H, W] after each step."""

    @abstractmethod
    def was_cached(self) -> bool:
        """Whether the step just made was a cached one."""

    @abstractmethod
    def drop(self) -> None:
        """Let go of what the last trajectory left in the caches."""


Entry = Contender | tuple[str, str]  # or the name of a peer, and why it cannot be measured


class Project(Contender):
    """A cache of this project, or the bare model.

    Args:
        new_cache: an empty cache, or None: none at all.
    """

    def __init__(
        self,
        name: str,
        workload: Workload,
        cached_steps: CachedSteps,
        new_cache: Callable[[], ScheduledCache] | None = None,
    ) -> None:
        super().__init__(name, cached_steps, "none")
        self.workload, self.new_cache = workload, new_cache
        self.cache: ScheduledCache | None = None

    def start(self) -> Iterator[Tensor]:
        self.cache = self.new_cache() if self.new_cache else None
        return self.workload.generation().trajectory(range(self.workload.batch), self.cache)[1]

    def was_cached(self) -> bool:
        return self.cache is not None and bool(self.cache.mask[self.cache.step].all())

    def drop(self) -> None:
        self.cache = None


class Foreign(Contender):
    """A denoiser of another make, run by the project's sampler; it has the attributes that `Generation` asks for."""

    def __init__(self, name: str, workload: Workload, cached_steps: CachedSteps, baseline: str) -> None:
        super().__init__(name, cached_steps, baseline)
        self.workload = workload
        model = workload.model
        self.num_classes, self.in_channels, self.input_size = model.num_classes, model.in_channels, model.input_size
        self.null_label, self.learned_variance = model.null_label, model.learned_variance
        self.clock = StepCache()  # told the number of each step, as every cache is

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, y: Tensor, cache: StepCache) -> Tensor:
        """As the project's DiT: x [N, C, H, W], t [1], y [N] -> [N, 2C, H, W]."""

    def start(self) -> Iterator[Tensor]:
        self.drop()
        generation = replace(self.workload.generation(), model=cast(DiT, self))
        return generation.trajectory(range(self.workload.batch), self.clock)[1]


class Textbook(Foreign):
    """Reuse or GOC as one writes it down first, on the project's weights.

    Each block has two lists of features, attention's and MLP's, of the last one (reuse) or two (GOC) steps. Every step
    computes all six modulations of a block, stores what it used, and makes a new tensor with every operation.

    Args:
        weight: of the one gradient; None: plain reuse.
    """

    def __init__(self, name: str, workload: Workload, cached_steps: CachedSteps, weight: float | None) -> None:
        super().__init__(name, workload, cached_steps, "none")
        self.weight = weight
        self.cached = set(cached_steps(workload.steps))
        self.branch = torch.compile(computed_branch) if workload.compiled else computed_branch
        self.features: list[tuple[list[Tensor], list[Tensor]]] = []

    def drop(self) -> None:
        self.features = [([], []) for _ in self.workload.model.blocks]

    def was_cached(self) -> bool:
        return self.clock.step in self.cached

    def predict(self, used: list[Tensor]) -> Tensor:
        """From the values [N, tokens, hidden] used in the last steps, the newest last."""
        if self.weight is None or len(used) < 2:
            return used[-1]
        gradient = used[-1] - used[-2]
        return used[-1] + self.weight * gradient

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, cache: StepCache) -> Tensor:
        model = self.workload.model
        condition = model.t_embedder(t) + model.y_embedder(y)
        h = model.x_embedder(x) + model.pos_embed
        for block, features in zip(model.blocks, self.features, strict=True):
            modulations = cast(DiTBlock, block).adaLN_modulation(condition).chunk(6, dim=1)
            for branch in (ATTENTION, MLP):
                used = features[branch]
                shift, scale, gate = modulations[3 * branch : 3 * branch + 3]
                if self.was_cached():
                    feature = self.predict(used)
                else:
                    feature = self.branch(cast(DiTBlock, block), branch, h, shift, scale)
                h = h + gate.unsqueeze(1) * feature
                used.append(feature)
                if len(used) > (1 if self.weight is None else 2):
                    used.pop(0)
        return model.unpatchify(model.final_layer(h, nn.functional.silu(condition)))


def computed_branch(block: DiTBlock, branch: int, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A branch's feature [N, tokens, hidden] of the residual stream h, for shift and scale [N, hidden]."""
    norm, layer = ((block.norm1, block.attn), (block.norm2, block.mlp))[branch]
    return layer(modulate(norm(h), shift, scale))


def never(steps: int) -> list[int]:
    """The schedule that caches no step."""
    return []


def evenly(cache_ratio: float) -> CachedSteps:
    """The paper's rule-based schedule (`goc.caching.schedule.uniform`)."""
    return lambda steps: cached_steps_of(uniform(steps, 1, cache_ratio))


def seer(steps: int) -> list[int]:
    """TaylorSeer's schedule (`goc.caching.schedule.taylorseer`)."""
    return cached_steps_of(taylorseer(steps, 1, INTERVAL))


def goc_queue(mask: Tensor) -> GradientQueue:
    """The paper's gradient queue, without gating: it costs most."""
    return GradientQueue(mask, [GRADIENT_WEIGHT])


def seer_taylor(mask: Tensor) -> Taylor:
    """TaylorSeer's predictor."""
    return Taylor(mask, ORDER)


def project(
    name: str,
    workload: Workload,
    cached_steps: CachedSteps,
    predictor: Callable[[Tensor], Predictor],
    site: Site = "branch",
) -> Project:
    """A contender with a cache of this project, at either site."""
    mask = whole_steps(cached_steps(workload.steps), workload.steps, workload.model.depth)
    if site == "stack":
        mask = mask[:, :1, :1]
    return Project(name, workload, cached_steps, lambda: ScheduledCache(mask, predictor(mask), site))


def project_contenders(workload: Workload) -> Sequence[Contender]:
    """The bare model, the idle machinery, the project's methods at both sites, and the textbook's two."""
    half, three_quarters = evenly(0.5), evenly(0.75)
    return [
        Project("none", workload, never),
        project("idle", workload, never, Reuse),
        project("reuse 50 %", workload, half, Reuse),
        project("goc 50 %", workload, half, goc_queue),
        project("reuse 75 %", workload, three_quarters, Reuse),
        project("goc 75 %", workload, three_quarters, goc_queue),
        project("taylorseer", workload, seer, seer_taylor),
        project("reuse stack 50 %", workload, half, Reuse, "stack"),
        project("goc stack 50 %", workload, half, goc_queue, "stack"),
        project("taylor stack 50 %", workload, half, seer_taylor, "stack"),
        Textbook("textbook reuse 50 %", workload, half, None),
        Textbook("textbook goc 50 %", workload, half, GRADIENT_WEIGHT),
    ]
