"""Which half of a guided evaluation is computed, and a cache for each half where the two do not go together.

Classifier-free guidance evaluates the network twice, with the condition and without. The conditional half is needed
everywhere; the unconditional one may be left out where there is no guidance (limited intervals, Kynkaanniemi et al.,
arXiv 2404.07724), or where its difference to the conditional one can be predicted, since it changes slowly (LinearAG,
Castillo et al., arXiv 2312.12487; FasterCache's CFG-Cache, arXiv 2410.19355).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from goc.caching.cache import StepCache
from goc.caching.predictor import Cell, Predictor, evaluate
from goc.caching.ratio import computed_at
from goc.caching.samples import for_batch

DIFFERENCE: Cell = (0, 0)  # of the two halves, the one cell that its predictor has

NewCache = Callable[[], StepCache]


@dataclass(frozen=True)
class Halves:
    """What becomes of the unconditional half, bool [evaluations] each.

    guided: where there is guidance. evaluated: where the half is evaluated; elsewhere its difference to the conditional
    one is predicted. measured: where that difference is taken for predictions: not where features stand in.
    """

    guided: tuple[bool, ...]
    evaluated: tuple[bool, ...]
    measured: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.guided)

    @property
    def complete(self) -> bool:
        """Whether both halves are evaluated everywhere."""
        return all(self.evaluated)

    @property
    def places(self) -> list[int]:
        """The evaluations in which the unconditional half is evaluated, in order."""
        return [i for i, evaluated in enumerate(self.evaluated) if evaluated]

    def describe(self) -> dict[str, list[int]]:
        """The evaluations without guidance, and those whose unconditional half is predicted."""
        unguided = [i for i, guided in enumerate(self.guided) if not guided]
        predicted = self.predicted.flatten().nonzero().flatten().tolist()
        return {"unguided": unguided, "predicted": predicted}

    @property
    def predicted(self) -> Tensor:
        """Where the difference is predicted: a mask, bool [evaluations, 1, 1]."""
        pairs = zip(self.guided, self.evaluated, strict=True)
        return torch.tensor([guided and not evaluated for guided, evaluated in pairs])[:, None, None]


def guided_at(sigmas: Sequence[float], interval: Sequence[float] | None) -> list[bool]:
    """Where there is guidance: at noise levels lo < sigma <= hi (arXiv 2404.07724); None: everywhere."""
    return [interval is None or interval[0] < sigma <= interval[1] for sigma in sigmas]


def halves(guided: Sequence[bool], cached: Sequence[bool], cfg_cache: float = 0.0, start: int = 1) -> Halves:
    """The halves that are evaluated, of all evaluations.

    guided: where there is guidance; cached: where the network is cached as a whole, which costs nothing. Of the other
    guided evaluations, and the first, the share cfg_cache leaves the unconditional half out: as evenly as whole numbers
    allow, after the first `start`. Cached evaluations do as the one before them that is not.
    """
    first = next((i for i, is_guided in enumerate(guided) if is_guided), len(guided))
    computing = [i for i, is_guided in enumerate(guided) if is_guided and (i == first or not cached[i])]
    start = min(start, len(computing))
    rest, kept = len(computing) - start + 1, max(computed_at(cfg_cache, len(computing)) - start, 0) + 1
    both = set(computing[:start]) | {computing[start - 1 + j * rest // kept] for j in range(kept) if computing}
    evaluated, complete = list[bool](), False
    for i, is_guided in enumerate(guided):
        complete = i in both if i in computing else complete
        evaluated.append(is_guided and complete)
    return Halves(tuple(guided), tuple(evaluated), tuple(i in both for i in range(len(guided))))


class HalfCaches(StepCache):
    """A cache for each half of a guided batch, and the difference of the halves.

    Args:
        halves: which of them are evaluated.
        new_caches: of the conditional half, which counts all evaluations, and of the unconditional one, which counts
            its own; None: it has none.
        new_difference: makes what predicts the difference, for the mask `halves.predicted`.
        samples: of the batch, for caches that are each a sample's own.
    """

    def __init__(
        self,
        halves: Halves,
        new_caches: Sequence[NewCache | None],
        new_difference: Callable[[], Predictor],
        samples: int = 1,
    ) -> None:
        super().__init__()
        self.halves, self.new_caches, self.new_difference = halves, new_caches, new_difference
        self.conditional, self.unconditional = (new and for_batch(new, samples) for new in new_caches)
        self.difference = new_difference()

    def for_batch(self, samples: int) -> "HalfCaches":
        """The same with empty state for a batch of so many samples."""
        return HalfCaches(self.halves, self.new_caches, self.new_difference, samples)

    def draw_from(self, generators: Sequence[torch.Generator]) -> None:
        for cache, _ in self.each:
            if cache is not None:  # the same numbers for both, whichever of them is evaluated
                cache.draw_from([generator.clone_state() for generator in generators])

    @property
    def each(self) -> list[tuple[StepCache | None, int]]:
        """The cache of each half, and how many evaluations it has."""
        return [(self.conditional, len(self.halves)), (self.unconditional, len(self.halves.places))]

    def store_difference(self, step: int, difference: Tensor) -> None:
        """Take over the conditional half less the unconditional one, both evaluated in this step: [N, C, H, W]."""
        if self.halves.measured[step]:
            self.difference.store(step, DIFFERENCE, difference)
            self.count_held(self.difference.held())  # the halves' caches count their own

    def predicted_difference(self, step: int) -> Tensor:
        """What stands in for it."""
        return evaluate(self.difference.predict(step, DIFFERENCE))
