"""What stands in for cached branches, added to the residual stream: h + sum of coefficient * gate * tensor."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Gated = tuple[float, Tensor, Tensor]  # coefficient, gate [N, hidden], tensor [N, tokens, hidden]
Add = Callable[[Tensor, Sequence[Gated]], Tensor]


def add_gated(h: Tensor, gated: Sequence[Gated]) -> Tensor:
    """h [N, tokens, hidden] + sum of coefficient * gate * tensor, one after the other.

    In place outside of training. Every tensor is read once, and nothing as large as it is allocated.
    """
    return add_pairs(h, [(gate if coefficient == 1 else coefficient * gate, f) for coefficient, gate, f in gated])


def add_pairs(h: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The same of (gate, tensor) pairs; torch.compile makes it one pass over h, too."""
    add = torch.addcmul if torch.is_grad_enabled() else Tensor.addcmul_
    for gate, tensor in pairs:
        h = add(h, gate.unsqueeze(1), tensor)
    return h


def add_compiled() -> Add:
    """`add_gated` compiled: one graph for each number of tensors, whatever their coefficients."""
    compiled = torch.compile(add_pairs)

    def add(h: Tensor, gated: Sequence[Gated]) -> Tensor:
        # numbers are multiplied with the gates first, as a graph is made for each; another one is made for arguments
        # that are the same tensor, so gates of several terms become tensors of their own
        uses = Counter(id(gate) for _, gate, _ in gated)
        pairs = [(gate if coefficient == 1 and uses[id(gate)] == 1 else coefficient * gate, tensor)
                 for coefficient, gate, tensor in gated]  # fmt: skip
        return compiled(h, pairs)

    return add
