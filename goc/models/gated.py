"""What stands in for cached branches, added to the residual stream: h + sum of coefficient * gate * tensor."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from goc.models.packed import FLOAT8, Packed, Value
from goc.system.device import reads_float8

Gated = tuple[float, Tensor, Tensor]  # coefficient, gate [N, hidden], tensor [N, tokens, hidden]
Add = Callable[[Tensor, Sequence[Gated]], Tensor]


def gated_by(gate: Tensor, terms: Sequence[tuple[float, Value]]) -> list[Gated]:
    """A branch's terms with its gate [N, hidden] or [1, 1]; the scale of a packed one is a factor of its gate."""
    return [
        (coefficient, gate * value.scale.flatten(1), value.values)
        if isinstance(value, Packed)
        else (coefficient, gate, value)
        for coefficient, value in terms
    ]


def add_gated(h: Tensor, gated: Sequence[Gated]) -> Tensor:
    """h [N, tokens, hidden] + sum of coefficient * gate * tensor, one after the other.

    In place outside of training. Every tensor is read once, and nothing as large as it is allocated.
    """
    return add_pairs(h, [(scaled(gate, coefficient), f) for coefficient, gate, f in gated])


def scaled(gate: Tensor, coefficient: float | Tensor) -> Tensor:
    """A coefficient times a gate [N, hidden]; in a training it may be a tensor that learns, [] or [N, 1]."""
    return gate if isinstance(coefficient, float) and coefficient == 1 else coefficient * gate


def add_pairs(h: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The same of (gate, tensor) pairs; torch.compile makes it one pass over h, too."""
    add = torch.addcmul if torch.is_grad_enabled() else Tensor.addcmul_
    for gate, tensor in pairs:
        # torch multiplies no float8: one tensor at a time in the stream's format
        h = add(h, gate.unsqueeze(1), tensor.to(h.dtype) if tensor.dtype == FLOAT8 else tensor)
    return h


def add_compiled() -> Add:
    """`add_gated` compiled: one graph for each number of tensors, whatever their coefficients."""
    compiled = torch.compile(add_pairs)

    def add(h: Tensor, gated: Sequence[Gated]) -> Tensor:
        # numbers are multiplied with the gates first, as a graph is made for each; another one is made for arguments
        # that are the same tensor, so gates of several terms become tensors of their own
        uses = Counter(id(gate) for _, gate, _ in gated)
        if any(tensor.dtype == FLOAT8 for _, _, tensor in gated) and not reads_float8(h.device):
            return add_gated(h, gated)
        pairs = [(gate if coefficient == 1 and uses[id(gate)] == 1 else coefficient * gate, tensor)
                 for coefficient, gate, tensor in gated]  # fmt: skip
        return compiled(h, pairs)

    return add
