"""What a schedule costs on a model: multiply-accumulate operations (MACs), counted exactly.

Counted are the matrix products (linear layers, the patch convolution, attention's two products), as is customary;
elementwise work is not. One forward pass of DiT-XL/2 at 256x256 is 118.6 GMACs for one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from goc.models.network import MLP, Network, Site
from goc.models.seen import Looked


def cell_macs(model: Network, site: Site = "branch", first_blocks: int = 0) -> Tensor:
    """MACs that caching one cell saves, for one image: int64 [blocks, 2] (attention, MLP), or [1, 1] at site "stack".

    A cached branch computes neither itself nor its shift and scale; its gate is still computed. A cached stack computes
    no block at all, but for the first ones of a cache that looks at them.
    """
    macs = model.macs
    if site == "stack":
        return (macs.cells + macs.gates)[first_blocks:].sum().view(1, 1)
    return macs.cells


def forward_macs(model: Network) -> int:
    """MACs of one full forward pass for one image."""
    return model.macs.forward


def looking_macs(model: Network, looked: Looked) -> int:
    """MACs of what was computed only to be looked at, for one image."""
    macs = model.macs
    last_block = int((macs.cells + macs.gates)[-1].sum())  # its gates are computed once more
    return looked.modulated_inputs * macs.modulated_input + looked.last_blocks * last_block


@dataclass(frozen=True)
class Partly:
    """What a selection adds to a schedule's cost. Attention that shows its probabilities needs no product more.

    counts: tokens of cached MLPs that are computed after all, int64 [evaluations, blocks]. skipped: evaluations whose
    cached cells need not even their gates. selection_macs: MACs of the selection itself, for one row.
    """

    counts: Tensor
    skipped: Sequence[int] = ()
    selection_macs: int = 0

    def macs(self, model: Network, mask: Tensor) -> int:
        """MACs beside those of a schedule, bool [evaluations, blocks, 2], in all evaluations of one row."""
        macs = model.macs
        modulations = macs.cells[:, MLP] - macs.stream[0] * macs.token  # shift and scale, as of a computed branch
        of_tokens = int(self.counts.sum()) * macs.token + int(((self.counts > 0) * modulations).sum())
        without_gates = int((mask[list(self.skipped)] * macs.gates).sum())
        return of_tokens - without_gates + self.selection_macs

    def share(self, model: Network, mask: Tensor) -> float:
        """The share of a mask's cells that is computed after all, a token of one as its share of the tokens."""
        return int(self.counts.sum()) / (model.macs.stream[0] * mask.numel())


def image_macs(
    model: Network, mask: Tensor, guided: bool, site: Site = "branch", first_blocks: int = 0, beside: int = 0
) -> int:
    """MACs to sample one image under a schedule, bool [evaluations, blocks, 2]; guidance doubles each evaluation.

    beside: of what the mask does not say, in all evaluations of one row. The work of predictors and decisions
    themselves is elementwise and so not counted; what decisions look at is.
    """
    saved = int((mask * cell_macs(model, site, first_blocks)).sum())
    return (len(mask) * forward_macs(model) - saved + beside) * (2 if guided else 1)
