"""WHICH tokens of a cached cell are computed after all: those of MLPs, which are computed token by token.

The predictor stands in for all tokens of the cell; the selected ones are computed by the branch, from the stream as it
is, and written into what the predictor holds. Each row of a batch is decided by itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from goc.models.cost import Partly
from goc.models.network import ATTENTION, MLP, Network

MLP_FACTOR = 2.5  # ToCa computes no token of attention, and of an MLP so many times the ratio


def shares(ratio: float, by_block: float, by_step: float, steps: int, depth: int) -> Tensor:
    """The share of a cached MLP's tokens to compute, in [0, 1], float32 [steps, blocks] (ToCa, arXiv 2410.05317).

    ratio (1 + by_block (1 - 2 l / (L - 1))) (1 + by_step (1 - 2 s / T)) 2.5 in block l of L, s = T - 1 - i in step i.
    The authors' code has 27 for L - 1, which is DiT-XL/2's. Rounded to float32, as theirs, a share that is a number of
    tokens stays one.
    """
    of_blocks = 1 + by_block * (1 - 2 * torch.arange(depth, dtype=torch.float64) / max(depth - 1, 1))
    of_steps = 1 + by_step * (1 - 2 * torch.arange(steps, dtype=torch.float64).flip(0) / steps)
    return (ratio * MLP_FACTOR * of_steps[:, None] * of_blocks).clamp(0.0, 1.0).float()


class Draws:
    """Random numbers of each sample's own; its rows (two with guidance) have the same ones.

    generators: of each sample (CPU). Rows are all samples, and then, with guidance, all again.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def uniform(self, rows: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Numbers in [0, 1), float32 [rows, *shape]."""
        numbers = torch.stack([torch.rand(shape, generator=generator) for generator in self.generators])
        return numbers.repeat(rows // len(numbers), *[1] * len(shape)).to(device)


def square(tokens: int) -> tuple[int, int] | None:
    """Rows and columns of so many tokens, where they are a square."""
    side = isqrt(tokens)
    return (side, side) if side**2 == tokens else None


class Selection(ABC):
    """Names tokens in the cached MLPs of one batch.

    looks_at_attention: whether `attended` is wanted; looks_at_stream: whether `finished` is. grid: rows and columns of
    so many tokens, or of each of their frames; None: they have no places.

    Args:
        mask: the schedule, bool [steps, blocks, 2]. skipped: steps of it in which no token is computed.
    """

    looks_at_attention = looks_at_stream = False
    grid: Callable[[int], tuple[int, int] | None] = staticmethod(square)

    def __init__(self, mask: Tensor, skipped: Sequence[int] = ()) -> None:
        self.mask, self.partial = mask, mask[:, :, MLP].clone()
        self.partial[list(skipped)] = False
        self.asked: list[list[bool]] = self.partial.tolist()
        self.draws: Draws | None = None
        self.step = 0
        self.tokens: int | None = None

    @abstractmethod
    def wanted(self, tokens: int) -> Tensor:
        """How many of so many tokens of each MLP that is cached, int64 [steps, blocks]."""

    def counts(self, tokens: int) -> Tensor:
        """How many tokens of a cached MLP are computed after all, int64 [steps, blocks]; 0 in the others."""
        return torch.where(self.partial, self.wanted(tokens), 0)

    def count(self, block: int, tokens: int) -> int:
        """The same of one cell of this step."""
        if tokens != self.tokens:
            self.tokens, self._counts = tokens, self.counts(tokens).tolist()
        return self._counts[self.step][block]

    @abstractmethod
    def choose(self, block: int, count: int, held: Tensor) -> Tensor:
        """The tokens [N, count], int64; held: what the predictor holds of the MLP [N, tokens, hidden]."""

    @property
    def possible(self) -> Tensor:
        """Where any token may be computed after all, bool [steps, blocks]."""
        return self.partial

    @cached_property
    def attention_wanted(self) -> list[list[bool]]:
        """Where attention is computed, and a score may need its probabilities: [steps][blocks]."""
        possible = self.possible
        needed, wanted = torch.zeros_like(possible[0]), torch.zeros_like(possible)
        for step in reversed(range(len(wanted) if self.looks_at_attention else 0)):
            needed, computed = needed | possible[step], ~self.mask[step, :, ATTENTION]
            wanted[step], needed = needed & computed, needed & ~computed
        return wanted.tolist()

    def begin_step(self, step: int) -> None:
        """A step begins."""
        self.step = step

    def attended(self, block: int, received: Tensor) -> None:  # noqa: B027  (few look)
        """Attention was computed where it is wanted: the probability that tokens receive, [N, tokens]."""

    def stored(self, block: int, feature: Tensor) -> None:  # noqa: B027  (few count ages)
        """An MLP was computed whole: [N, tokens, hidden]."""

    def finished(self, h: Tensor) -> None:  # noqa: B027  (few look at the stream)
        """The stream after the last block of a step, [N, tokens, hidden]."""

    def passed(self, block: int) -> None:  # noqa: B027  (few count ages)
        """No token of a cached MLP was computed, where there could have been some."""

    def write(self, block: int, held: Tensor, tokens: Tensor, fresh: Tensor) -> None:
        """Put computed tokens [N, count, hidden] into what the predictor holds [N, tokens, hidden], in place."""
        held.scatter_(1, tokens.unsqueeze(-1).expand_as(fresh), fresh.to(held.dtype))

    def held(self) -> list[Tensor]:
        """The tensors held now."""
        return []

    def macs(self, tokens: int, hidden: int) -> list[int]:
        """Multiply-accumulates of its matrix products in each step, for one row of so many tokens."""
        return [0] * len(self.asked)


class Scored(Selection):
    """The tokens with the highest scores, of a share that depends on step and block.

    Args:
        mask, skipped: as for Selection. share: float32 [steps, blocks], as `shares` gives them.
    """

    def __init__(self, mask: Tensor, share: Tensor, skipped: Sequence[int] = ()) -> None:
        super().__init__(mask, skipped)
        self.share = share

    @property
    def possible(self) -> Tensor:
        return self.partial & (self.share > 0)

    def wanted(self, tokens: int) -> Tensor:
        return (self.share * tokens).long()

    @abstractmethod
    def scores(self, block: int, held: Tensor) -> Tensor:
        """A number for each token, float32 [N, tokens]."""

    def choose(self, block: int, count: int, held: Tensor) -> Tensor:
        return self.scores(block, held).topk(count, dim=1).indices


class Norm(Scored):
    """The tokens whose held features are the longest."""

    def scores(self, block: int, held: Tensor) -> Tensor:
        return held.float().norm(dim=-1)


class Random(Scored):
    """Any tokens, drawn anew in each step and block, the same ones for both halves of guidance."""

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self.drawn: Tensor | None = None

    def scores(self, block: int, held: Tensor) -> Tensor:
        if self.drawn is None:
            assert self.draws is not None  # who makes the cache of a batch gives them
            self.drawn = self.draws.uniform(len(held), (self.partial.shape[1], held.shape[1]), held.device)
        return self.drawn[:, block]


class ToCa(Scored):
    """Tokens that others attend to, that were not computed for long, and that are the best around (arXiv 2410.05317).

    Score: the attention received over its norm over tokens, plus age_weight age / interval, where age counts the cached
    steps since the token was computed; times bonus for the best of every 2x2 patch of the grid, if there is one.

    Args:
        mask, share, skipped: as for Scored. interval: of the schedule.
    """

    looks_at_attention = True

    def __init__(
        self,
        mask: Tensor,
        share: Tensor,
        age_weight: float,
        interval: float,
        bonus: float,
        skipped: Sequence[int] = (),
    ) -> None:
        super().__init__(mask, share, skipped)
        self.age_weight, self.interval, self.bonus = age_weight, interval, bonus
        self.received: dict[int, Tensor] = {}
        self.times: dict[int, int] = {}  # that a block's MLP was cached, and as many when each token was last computed
        self.computed: dict[int, Tensor] = {}

    def attended(self, block: int, received: Tensor) -> None:
        self.received[block] = received / received.norm(dim=-1, keepdim=True)

    def stored(self, block: int, feature: Tensor) -> None:
        self.times[block] = 0
        self.computed[block] = torch.zeros(feature.shape[:2], device=feature.device)

    def passed(self, block: int) -> None:
        self.times[block] += 1

    def scores(self, block: int, held: Tensor) -> Tensor:
        age = self.times[block] - self.computed[block]
        scores = self.received[block] + self.age_weight * age / self.interval
        grid = self.grid(scores.shape[1])
        return scores if grid is None else favour(scores, self.bonus, grid)

    def choose(self, block: int, count: int, held: Tensor) -> Tensor:
        tokens = super().choose(block, count, held)
        self.times[block] += 1
        self.computed[block].scatter_(1, tokens, float(self.times[block]))
        return tokens

    def held(self) -> list[Tensor]:
        return [*self.received.values(), *self.computed.values()]


def favour(scores: Tensor, factor: float, grid: tuple[int, int]) -> Tensor:
    """Scores [N, tokens] of one grid or of several (frames), the best of every 2x2 patch multiplied by a factor."""
    frames = scores.unflatten(1, (-1, *grid))
    best, where = F.max_pool2d(frames, 2, ceil_mode=True, return_indices=True)
    return frames.flatten(2).scatter(2, where.flatten(2), factor * best.flatten(2)).flatten(1)


class Clusters(Selection):
    """A token of each cluster of the stream, which speaks for the others of it (ClusCa, arXiv 2509.10312).

    Clusters are k-means in L1 distance of the stream after the last block of each step that is computed whole, started
    from the last centroids, at first from random tokens. A token is drawn of each for every step and block. What is
    held becomes propagation times the computed token of a token's own cluster, plus 1 - propagation times itself. As in
    the authors' code, the first token is computed for a cluster without any, and added to its own cluster's.

    Args:
        mask, skipped: as for Selection. clusters: how many. propagation: in [0, 1].
    """

    ITERATIONS = 10
    looks_at_stream = True

    def __init__(self, mask: Tensor, clusters: int, propagation: float, skipped: Sequence[int] = ()) -> None:
        super().__init__(mask, skipped)
        self.clusters, self.propagation = clusters, propagation
        later = self.partial.any(dim=1).flip(0).cummax(dim=0).values.flip(0)  # whether a step that asks is to come
        self.clustered: list[bool] = (~mask.flatten(1).any(dim=1) & later).tolist()
        self.labels: Tensor | None = None  # int64 [N, tokens]
        self.centroids: Tensor | None = None  # [N, clusters, hidden]

    def wanted(self, tokens: int) -> Tensor:
        return torch.full(self.partial.shape, self.clusters)

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self.drawn: Tensor | None = None

    def finished(self, h: Tensor) -> None:
        if not self.clustered[self.step]:
            return
        if self.centroids is None:
            assert self.draws is not None
            first = self.draws.uniform(len(h), (h.shape[1],), h.device).topk(self.clusters, dim=1).indices
            self.centroids = h.float().gather(1, first.unsqueeze(-1).expand(-1, -1, h.shape[2]))
        self.labels, self.centroids = k_means(h.float(), self.centroids, self.ITERATIONS)

    def choose(self, block: int, count: int, held: Tensor) -> Tensor:
        assert self.labels is not None
        if self.drawn is None:
            assert self.draws is not None
            self.drawn = self.draws.uniform(len(held), (self.partial.shape[1], count), held.device)
        return members(self.labels, self.drawn[:, block])

    def write(self, block: int, held: Tensor, tokens: Tensor, fresh: Tensor) -> None:
        super().write(block, held, tokens, fresh)
        if self.propagation:
            assert self.labels is not None
            belongs = F.one_hot(self.labels.gather(1, tokens), self.clusters).to(fresh.dtype).transpose(1, 2)
            speaking = (belongs @ fresh).to(held.dtype)  # of each cluster
            held.lerp_(speaking.gather(1, self.labels.unsqueeze(-1).expand_as(held)), self.propagation)

    def held(self) -> list[Tensor]:
        return [tensor for tensor in (self.labels, self.centroids) if tensor is not None]

    def macs(self, tokens: int, hidden: int) -> list[int]:
        means = self.ITERATIONS * tokens
        spoken = self.clusters if self.propagation else 0
        works = zip(self.clustered, self.asked, strict=True)
        return [(made * means + sum(asked) * spoken) * self.clusters * hidden for made, asked in works]


def k_means(tokens: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Labels int64 [N, tokens] and centroids [N, K, hidden] of tokens [N, tokens, hidden], each row by itself.

    A cluster's centroid is the mean of those that are closest to it in L1 distance; one without any stays.
    """
    for _ in range(iterations):
        labels = torch.cdist(tokens, centroids, p=1).argmin(dim=-1)
        belongs = F.one_hot(labels, centroids.shape[1]).to(tokens.dtype).transpose(1, 2)  # [N, K, tokens]
        sizes = belongs.sum(dim=-1, keepdim=True)
        centroids = torch.where(sizes > 0, belongs @ tokens / sizes.clamp(min=1), centroids)
    return labels, centroids


def members(labels: Tensor, uniform: Tensor) -> Tensor:
    """A token of each cluster, int64 [N, K], by numbers in [0, 1) [N, K]; token 0 for a cluster without any.

    labels: int64 [N, tokens].
    """
    sizes = F.one_hot(labels, uniform.shape[1]).sum(dim=1)
    rank = (uniform * sizes).long().minimum(sizes - 1)
    first = sizes.cumsum(dim=1) - sizes
    order = labels.argsort(dim=1, stable=True)
    return torch.where(sizes > 0, order.gather(1, (first + rank).clamp(min=0)), 0)


def partly_of(selection: Selection | None, mask: Tensor, skipped: Sequence[int], model: Network) -> Partly:
    """What of a mask's cells, bool [evaluations, blocks, 2], is computed after all, or not even gated; for its cost."""
    if selection is None:
        return Partly(torch.zeros(mask.shape[:2], dtype=torch.long), skipped)
    tokens, hidden = model.macs.stream
    return Partly(selection.counts(tokens), skipped, sum(selection.macs(tokens, hidden)))
