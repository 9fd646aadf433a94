"""Caches that decide as they run, one for each sample of a batch: a sample is what it is, whatever is beside it."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import cast

import torch
from torch import Tensor

from goc.caching.cache import AdaptiveCache, StepCache
from goc.caching.predictor import evaluate
from goc.models.dit import Terms
from goc.models.seen import Seen


def for_batch(new_cache: Callable[[], StepCache], samples: int) -> StepCache:
    """A cache with empty state for a batch of so many samples: one for all, or one for each."""
    cache = new_cache()
    if not isinstance(cache, AdaptiveCache) or not (cache.per_sample or cache.decision.of_network):
        return cache
    others = [new_cache() for _ in range(samples - 1 if cache.per_sample else 0)]
    return SampleCaches([cache, *cast(list[AdaptiveCache], others)])


class Several(StepCache):
    """Caches of one method, which are asked as one."""

    def __init__(self, caches: Sequence[AdaptiveCache]) -> None:
        super().__init__(caches[0].site)
        self.caches = caches

    @property
    def first_blocks(self) -> int:
        return self.caches[0].first_blocks

    @property
    def of_all(self) -> bool:
        return self.caches[0].of_all


class SampleCaches(Several):
    """A cache for each sample of a batch; its rows in the denoiser (two with guidance) are treated alike.

    Args:
        caches: of each, with empty state. Rows are all samples, and then, with guidance, all again; one cache alone is
            of all rows.
    """

    def __init__(self, caches: Sequence[AdaptiveCache]) -> None:
        super().__init__(caches)
        self.peak_cache_tensors = self.peak_cache_bytes = 0

    @property
    def of_network(self) -> bool:
        """Whether the whole network is skipped."""
        return self.caches[0].decision.of_network

    @property
    def mask(self) -> Tensor:
        """What was skipped: bool [samples, evaluations, ...]."""
        return torch.stack([cache.mask for cache in self.caches])

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        for cache in self.caches:
            cache.begin_step(step)
        held = [tensor for cache in self.caches for tensor in cache.predictor.held()]
        self.peak_cache_tensors = max(self.peak_cache_tensors, len(held) // len(self.caches))
        self.peak_cache_bytes = max(self.peak_cache_bytes, sum(tensor.nbytes for tensor in held))

    def rows(self, samples: Sequence[int], rows: int) -> list[int]:
        """The rows of some samples, among so many."""
        return [first + sample for first, sample in product(range(0, rows, len(self.caches)), samples)]

    def decide(self, seen: Seen) -> None:
        modulated = list[Tensor]()

        def once() -> Tensor:
            if not modulated:
                modulated.append(seen.modulated_input())
            return modulated[0]

        shared = Seen(seen.latents, seen.before, seen.after, once)
        for sample, cache in enumerate(self.caches):
            cache.decide(shared.of(self.rows([sample], len(seen.latents))))

    def parts(self, rows: int) -> list[tuple[list[int], StepCache]]:
        found = list[tuple[list[int], StepCache]]()
        for skipping in (False, True):
            samples = [i for i, cache in enumerate(self.caches) if cache.skipping is skipping]
            if samples:
                found.append((self.rows(samples, rows), Together([self.caches[i] for i in samples])))
        return found

    def network(self, x: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The network's output for its input x [N, C, ...], computed for the rows that need it.

        What it adds to its input is kept; of more channels than the input's (a variance), the values themselves.
        """
        seen, channels = Seen(x, x, x, lambda: x), x.shape[1]
        self.decide(seen)
        output: Tensor | None = None
        for rows, part in self.parts(len(x)):
            terms = part.lookup(0, 0)
            if terms is None:
                own = compute(rows)
                added = own.clone()
                added[:, :channels] -= x[rows]
                part.store(0, 0, added)
            else:
                own = evaluate(terms).clone()
                own[:, :channels] += x[rows]
            output = own.new_empty(len(x), *own.shape[1:]) if output is None else output
            output[rows] = own
        assert output is not None
        for sample, cache in enumerate(self.caches):
            if not cache.skipping:
                own_rows = self.rows([sample], len(x))
                cache.decision.computed(seen.of(own_rows), output[own_rows, :channels])
        return output


class Together(Several):
    """The caches of samples that all skip this step, or all compute it, as one for their rows."""

    def lookup(self, block: int, branch: int) -> Terms | None:
        found = [terms for cache in self.caches if (terms := cache.lookup(block, branch)) is not None]
        if not found:
            return None
        return [(1.0, torch.stack([evaluate(terms) for terms in found], dim=1).flatten(0, 1))]

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        for cache, own in zip(self.caches, feature.unflatten(0, (-1, len(self.caches))).unbind(1), strict=True):
            cache.store(block, branch, own.clone())
