"""What is measured in an uncached run of the calibration seeds, kept on disk by all that it depends on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from goc.caching.cache import StepCache
from goc.caching.halves import HalfCaches, Halves
from goc.caching.predictor import Reuse
from goc.sampling.generation import Generation
from goc.sampling.shared import shared_tensors


@dataclass(frozen=True)
class Calibration:
    """An uncached run of `samples` samples of `seed`, that recorders look at.

    key: what its trajectories depend on apart from the seeds. halves: of the guidance, where it is not everywhere;
    recorders look at the conditional half then, which is.
    """

    generation: Generation
    key: dict[str, Any]
    seed: int
    samples: int
    batch_size: int
    cache_dir: Path
    halves: Halves | None = None

    def seeded(self, new_cache: Callable[[], StepCache] | None = None) -> Generation:
        """The generation of the calibration's samples."""
        return replace(self.generation, new_cache=new_cache, seed=self.seed)

    def watched(self, recorder: StepCache | None = None) -> StepCache | None:
        """What the run is watched by."""
        if self.halves is None:
            return recorder
        predicted = self.halves.predicted
        new_recorder = None if recorder is None else lambda: recorder
        return HalfCaches(self.halves, (new_recorder, None), lambda: Reuse(predicted))

    def batches(self, indices: range | None = None) -> list[range]:
        """The samples, or those with these indices, as they are run together."""
        chosen, size = indices or range(self.samples), self.batch_size
        return [chosen[first : first + size] for first in range(0, len(chosen), size)]

    def measured(self, kind: str, recorder: StepCache, measure: Callable[[], Tensor], **settings: Any) -> Tensor:
        """What measure() gives after the recorder saw the run; from disk if it was measured before.

        kind names it; settings are what else it depends on.
        """

        def make() -> dict[str, Tensor]:
            generation = self.seeded(lambda: self.watched(recorder) or recorder)
            for indices in self.batches():
                generation.make(indices)
            return {kind: measure()}

        key = {**self.key, **settings, "seed": self.seed, "samples": self.samples}
        return shared_tensors(self.cache_dir, kind, key, {kind}, make)[kind]
