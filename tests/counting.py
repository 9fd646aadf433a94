"""Multiply-accumulate operations as torch counts them."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted_macs(call: Callable[[], object]) -> int:
    """MACs that torch's own counter sees (it counts 2 FLOPs each)."""
    # without the fused attention, whose CPU kernel the counter does not know
    math = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), math:
        call()
    return counter.get_total_flops() // 2
