"""Multiply-accumulate operations (MACs) as torch counts them, of what has no formula."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted_macs(call: Callable[[], object]) -> int:
    """MACs that torch's own counter sees (it counts 2 FLOPs each): matrix products and convolutions."""
    # without the fused attention, whose CPU kernel the counter does not know
    math = sdpa_kernel(SDPBackend.MATH)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # nor that of nn.MultiheadAttention
    try:
        with FlopCounterMode(display=False) as counter, torch.inference_mode(), math:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2
