"""What a step that is cached whole adds to the residual stream, in one pass over it: a Triton kernel for GPUs.

Written one by one, each of the sums reads and writes the stream; here it is read once and written once, whatever the
number of tensors that are added, and accumulated in float32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from goc.models.gated import Gated, add_gated
from goc.models.packed import FLOAT8
from goc.system.device import reads_float8

BLOCK = 1024  # values of the stream that one program sums up


@triton.jit
def sum_kernel(  # type: ignore[no-untyped-def]  # its arguments are of Triton's own kinds
    h, feature_at, gate_at, gate_stride, coefficients, count, values, hidden,
    feature_format: tl.constexpr, gate_format: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """h [N, values] += sum of coefficient * gate * feature; `_at` are addresses, one of each tensor, on the device.

    Its grid is [blocks of values, N]; formats are those of the tensors.
    """
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < values
    channel = place % hidden
    at = h + row * values + place
    total = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    for index in range(count):
        feature = tl.load(feature_at + index).to(tl.pointer_type(feature_format))
        gate = tl.load(gate_at + index).to(tl.pointer_type(gate_format))
        stride = tl.load(gate_stride + index)
        coefficient = tl.load(coefficients + index)
        f = tl.load(feature + row * values + place, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(gate + row * stride + channel, mask=inside, other=0.0).to(tl.float32)
        total += (coefficient * g) * f
    tl.store(at, total.to(h.dtype.element_ty), mask=inside)


FORMATS = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    FLOAT8: tl.float8e4nv,
}


def fits(h: Tensor, gated: Sequence[Gated]) -> bool:
    """Whether the kernel can add them: no gradients, tensors that lie as it reads them, two formats at most."""
    if torch.is_grad_enabled() or not gated or not h.is_contiguous():
        return False
    _, gate, feature = gated[0]
    if feature.dtype == FLOAT8 and not reads_float8(h.device):
        return False
    return {h.dtype, gate.dtype, feature.dtype} <= FORMATS.keys() and all(
        f.shape == h.shape and f.is_contiguous() and f.dtype == feature.dtype
        and g.shape == (len(h), h.shape[2]) and g.stride(1) == 1 and g.dtype == gate.dtype
        for _, g, f in gated
    )  # fmt: skip


def add_at_once(h: Tensor, gated: Sequence[Gated]) -> Tensor:
    """As `add_gated`, in place, in one kernel; what it cannot add is added one by one."""
    if not fits(h, gated):
        return add_gated(h, gated)
    count, (_, gate, feature) = len(gated), gated[0]
    addresses = [[f.data_ptr() for _, _, f in gated], [g.data_ptr() for _, g, _ in gated],
                 [g.stride(0) for _, g, _ in gated]]  # fmt: skip
    at = torch.tensor(addresses, dtype=torch.int64, device=h.device)
    coefficients = torch.tensor([c for c, _, _ in gated], dtype=torch.float32, device=h.device)
    values = h.shape[1] * h.shape[2]
    grid = (triton.cdiv(values, BLOCK), len(h))
    sum_kernel[grid](h, at[0], at[1], at[2], coefficients, count, values, h.shape[2],
                     feature_format=FORMATS[feature.dtype], gate_format=FORMATS[gate.dtype], block=BLOCK)  # fmt: skip
    return h
