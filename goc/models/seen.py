"""What a network shows a cache that decides as it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What a network shows before a step is computed.

    Rows are all samples that are decided each by itself, and then, with guidance, all again; samples=1: all rows are of
    one.

    latents: what it is given [N, ...]. before, after: hidden states [N, tokens, hidden] before the first block, and
    after those that are computed in every step. modulated_input: computes the first block's [N, tokens, hidden].
    """

    latents: Tensor
    before: Tensor
    after: Tensor
    modulated_input: Callable[[], Tensor]
    samples: int = 1

    def of(self, rows: Sequence[int], samples: int) -> "Seen":
        """The same of some rows, those of so many samples."""
        index = list(rows)
        tensors = {name: getattr(self, name)[index] for name in ("latents", "before", "after")}
        return replace(self, **tensors, modulated_input=lambda: self.modulated_input()[index], samples=samples)


@dataclass(frozen=True)
class Looked:
    """How often something was computed for a sample only to be looked at, beside what its mask says.

    modulated_inputs: the shift and scale of the first block's attention. last_blocks: the last block.
    """

    modulated_inputs: int = 0
    last_blocks: int = 0
