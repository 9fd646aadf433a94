"""What a schedule costs on a model: multiply-accumulate operations (MACs), counted exactly.

Counted are the matrix products (linear layers, the patch convolution, attention's two products), as is customary;
elementwise work is not. One forward pass of DiT-XL/2 at 256x256 is 118.6 GMACs for one image.
"""

import torch
from torch import Tensor

from goc.models.dit import BRANCHES, DiT, Site
from goc.models.seen import Looked

NOTHING = Looked()


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


def image_macs(
    model: DiT, mask: Tensor, guided: bool, site: Site = "branch", first_blocks: int = 0, looked: Looked = NOTHING
) -> int:
    """MACs to sample one image under a schedule, bool [evaluations, blocks, 2]; guidance doubles each evaluation.

    The work of predictors and decisions themselves is elementwise and so not counted; what decisions look at is.
    """
    saved = int((mask * cell_macs(model, site, first_blocks)).sum())
    per_pass = len(mask) * forward_macs(model) - saved + looking_macs(model, looked)
    return per_pass * (2 if guided else 1)
