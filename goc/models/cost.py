"""What a schedule costs on a model: multiply-accumulate operations (MACs), counted exactly.

Counted are the matrix products (linear layers, the patch convolution, attention's two products), as is customary;
elementwise work is not. One forward pass of DiT-XL/2 at 256x256 is 118.6 GMACs for one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from goc.models.dit import BRANCHES, DiT, Site
from goc.models.seen import Looked


def cell_macs(model: DiT, site: Site = "branch", first_blocks: int = 0) -> Tensor:
    """MACs that caching one cell saves, for one image: int64 [blocks, 2] (attention, MLP), or [1, 1] at site "stack".

    A cached branch computes neither itself nor its shift and scale; its gate is still computed. A cached stack computes
    no block at all, but for the first ones of a cache that looks at them.
    """
    tokens, hidden = model.num_tokens, model.hidden_size
    projections, products = 4 * tokens * hidden**2, 2 * tokens**2 * hidden
    modulation = 2 * hidden**2
    attention = projections + products + modulation
    mlp = 8 * tokens * hidden**2 + modulation
    if site == "stack":
        skipped = model.depth - first_blocks
        return torch.tensor([[skipped * (attention + mlp + BRANCHES * hidden**2)]])
    return torch.tensor([[attention, mlp]]).expand(model.depth, BRANCHES)


def forward_macs(model: DiT) -> int:
    """MACs of one full forward pass for one image."""
    tokens, hidden, patch_area = model.num_tokens, model.hidden_size, model.patch_size**2
    embed = tokens * patch_area * model.in_channels * hidden
    timestep = model.t_embedder.frequencies * hidden + hidden**2
    gates = model.depth * BRANCHES * hidden**2
    final = 2 * hidden**2 + tokens * hidden * patch_area * model.out_channels
    return embed + timestep + gates + final + int(cell_macs(model).sum())


def looking_macs(model: DiT, looked: Looked) -> int:
    """MACs of what was computed only to be looked at, for one image."""
    vector = model.hidden_size**2  # of a modulation; the last block's gates are computed once more
    last_block = int(cell_macs(model)[-1].sum()) + BRANCHES * vector
    return looked.modulated_inputs * 2 * vector + looked.last_blocks * last_block


@dataclass(frozen=True)
class Partly:
    """What a selection adds to a schedule's cost. Attention that shows its probabilities needs no product more.

    counts: tokens of cached MLPs that are computed after all, int64 [evaluations, blocks]. skipped: evaluations whose
    cached cells need not even their gates. own: MACs of the selection itself, for one row.
    """

    counts: Tensor
    skipped: Sequence[int] = ()
    own: int = 0

    def macs(self, model: DiT, mask: Tensor) -> int:
        """MACs beside those of a schedule, bool [evaluations, blocks, 2], in all evaluations of one row."""
        square = model.hidden_size**2
        modulations = int((self.counts > 0).sum())  # shift and scale, as of a computed branch
        without_gates = int(mask[list(self.skipped)].sum())
        return (8 * int(self.counts.sum()) + 2 * modulations - without_gates) * square + self.own

    def share(self, model: DiT, mask: Tensor) -> float:
        """The share of a mask's cells that is computed after all, a token of one as its share of the tokens."""
        return int(self.counts.sum()) / (model.num_tokens * mask.numel())


def image_macs(
    model: DiT, mask: Tensor, guided: bool, site: Site = "branch", first_blocks: int = 0, beside: int = 0
) -> int:
    """MACs to sample one image under a schedule, bool [evaluations, blocks, 2]; guidance doubles each evaluation.

    beside: of what the mask does not say, in all evaluations of one row. The work of predictors and decisions
    themselves is elementwise and so not counted; what decisions look at is.
    """
    saved = int((mask * cell_macs(model, site, first_blocks)).sum())
    return (len(mask) * forward_macs(model) - saved + beside) * (2 if guided else 1)
