"""A tensor that is held in 8 bits a value: float8 (e4m3fn) times a power of two for each of its rows.

A row is a sample (with guidance a half of one), so that what is held of it does not depend on the batch, as one scale
for a whole tensor would. Finer scales would buy nothing: a float8 has as many digits at every size, from the largest
value of a row down to 2^-15 of it. A power of two adds no rounding of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
EXPONENT = 0x7F800000  # the bits of a float32's exponent


@dataclass(frozen=True, eq=False)
class Packed:
    """values [N, ...] in float8 times scale [N, 1, ...], float32 powers of two."""

    values: Tensor
    scale: Tensor

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.values.nbytes + self.scale.nbytes

    def unpacked(self) -> Tensor:
        """The values in float32, a tensor of its own."""
        return self.values.float().mul_(self.scale)


Value = Tensor | Packed


def packed(tensor: Tensor) -> Packed:
    """A tensor [N, ...] in float8, rounded once; a row with a value that is not finite has none that is."""
    rows = tensor.reshape(len(tensor), -1)
    largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1, dtype=torch.float32)
    least = (largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    below = (least.view(torch.int32) & EXPONENT).view(torch.float32)  # the power of two at or below it
    scale = torch.where(below < least, 2 * below, below).view(-1, *[1] * (tensor.ndim - 1))
    return Packed((tensor.float() / scale).to(FLOAT8), scale)


def with_rows(values: Sequence[Value], of_rows: Callable[[Sequence[Tensor]], Tensor]) -> Value:
    """What a function makes of the rows of some tensors, all of which are packed, or none."""
    both = [value for value in values if isinstance(value, Packed)]
    if not both:
        return of_rows([value for value in values if isinstance(value, Tensor)])
    return Packed(of_rows([value.values for value in both]), of_rows([value.scale for value in both]))


def unpacked(value: Value) -> Tensor:
    """A tensor as it is, or what was packed in float32."""
    return value.unpacked() if isinstance(value, Packed) else value
