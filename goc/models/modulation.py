"""The vectors that a step's condition modulates the blocks of a DiT with (adaLN-Zero; Peebles & Xie, arXiv 2212.09748).

Six for each block: shift, scale and gate of the attention branch, then of the MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OF_A_BRANCH = 3
GATE = 2  # of the three

Vectors = tuple[Tensor, ...]  # each [N, hidden]


class Modulation:
    """The modulation vectors of all blocks in one step, cell by cell: none is computed that is not asked for.

    Args:
        linears: each block's, hidden -> 6 hidden.
        activated: SiLU(condition) [N, hidden].
    """

    def __init__(self, linears: Sequence[nn.Linear], activated: Tensor) -> None:
        self.linears, self.activated = linears, activated

    def vectors(self, block: int, first: int, count: int) -> Vectors:
        """Vectors first .. first+count-1 of a block's six; nothing else is computed."""
        linear, hidden = self.linears[block], self.activated.shape[1]
        rows = slice(first * hidden, (first + count) * hidden)
        # weights times few conditions, not the other way round: so a CPU reads the weights twice as fast
        vectors = torch.addmm(linear.bias[rows, None], linear.weight[rows], self.activated.t())
        return vectors.t().contiguous().chunk(count, dim=1)

    def of(self, block: int, branch: int) -> Vectors:
        """A branch's shift, scale and gate."""
        return self.vectors(block, OF_A_BRANCH * branch, OF_A_BRANCH)

    def gate(self, block: int, branch: int) -> Tensor:
        """A branch's gate alone [N, hidden]."""
        (gate,) = self.vectors(block, OF_A_BRANCH * branch + GATE, 1)
        return gate


@dataclass(frozen=True)
class Stacked:
    """The linear layers of all blocks as one: weight [blocks * 6 hidden, hidden] and bias, in the blocks' order."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, linears: Sequence[nn.Linear]) -> "Stacked":
        """Put the layers' parameters side by side; they become parts of what is returned, so it takes no memory."""
        weight, bias = (torch.cat([getattr(linear, name).data for linear in linears]) for name in ("weight", "bias"))
        for linear, rows, row in zip(linears, weight.chunk(len(linears)), bias.chunk(len(linears)), strict=True):
            linear.weight.data, linear.bias.data = rows, row
        return cls(weight, bias)

    def holds(self, linears: Sequence[nn.Linear]) -> bool:
        """Whether the layers' parameters are still parts of it: a model that is moved or copied gets others."""
        return linears[0].weight.data_ptr() == self.weight.data_ptr()


class StackedModulation(Modulation):
    """The same vectors, with one product for all blocks when the first is asked for.

    For a GPU, which takes longer to be told of 56 products, each of microseconds, than to compute them.
    """

    def __init__(self, linears: Sequence[nn.Linear], activated: Tensor, stacked: Stacked) -> None:
        super().__init__(linears, activated)
        self.stacked = stacked

    @cached_property
    def every(self) -> Tensor:
        """All vectors, [N, blocks, branches, 3, hidden]."""
        vectors = F.linear(self.activated, self.stacked.weight, self.stacked.bias)
        return vectors.unflatten(1, (len(self.linears), -1, OF_A_BRANCH, self.activated.shape[1]))

    @cached_property
    def gates(self) -> list[Vectors]:
        """The gates of every block's branches."""
        hidden = self.activated.shape[1]
        weight = self.stacked.weight.unflatten(0, (-1, OF_A_BRANCH, hidden))[:, GATE]
        bias = self.stacked.bias.unflatten(0, (-1, OF_A_BRANCH, 1, hidden))[:, GATE]
        gates = torch.baddbmm(bias, self.activated.expand(len(weight), -1, -1), weight.transpose(1, 2))
        return [block.unbind() for block in gates.chunk(len(self.linears))]

    def of(self, block: int, branch: int) -> Vectors:
        return self.every[:, block, branch].unbind(1)

    def gate(self, block: int, branch: int) -> Tensor:
        return self.gates[block][branch]
