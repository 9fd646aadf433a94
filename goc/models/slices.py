"""Attention and MLP slice by slice: less memory, and on a CPU no slower, since activations stay in its caches."""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Mlp
from torch import Tensor, nn

WORTH_NUMBERS = 2**19  # in the input; from then on slices are no slower
ATTENTION_SLICES, MLP_SLICES = 4, 8


def worth_slicing(layer: Attention | Mlp, x: Tensor) -> bool:
    """Whether in_slices(layer, x) is the better way: for large inputs [N, tokens, hidden] in fp32 on a CPU.

    Sums of 16-bit numbers would be rounded after every slice.
    """
    large = x.device.type == "cpu" and x.numel() > WORTH_NUMBERS
    return large and next(layer.parameters()).dtype == torch.float32


def in_slices(layer: Attention | Mlp, x: Tensor) -> Tensor:
    """layer(x) for x [N, tokens, hidden], up to rounding: what some heads or units at a time add to it is summed."""
    return _attention(layer, x) if isinstance(layer, Attention) else _mlp(layer, x)


def _slices(width: int, count: int) -> Iterator[slice]:
    """About `count` slices of equal size that together are range(width)."""
    size = -(-width // count)
    return (slice(start, min(start + size, width)) for start in range(0, width, size))


def _attention(attention: Attention, x: Tensor) -> Tensor:
    hidden, size = x.shape[-1], attention.head_dim
    weights, biases = attention.qkv.weight.view(3, hidden, hidden), attention.qkv.bias.view(3, hidden)
    output = attention.proj.bias.repeat(x.shape[0] * x.shape[1], 1)
    for heads in _slices(attention.num_heads, ATTENTION_SLICES):
        rows = slice(heads.start * size, heads.stop * size)
        qkv = (F.linear(x, weight[rows], bias[rows]) for weight, bias in zip(weights, biases, strict=True))
        attended = F.scaled_dot_product_attention(*(part.unflatten(-1, (-1, size)).transpose(1, 2) for part in qkv))
        attended = attended.transpose(1, 2).reshape(len(output), -1)
        output.addmm_(attended, attention.proj.weight[:, rows].t())
        del attended  # before the next slice's is made
    return output.view(x.shape)


def _mlp(mlp: Mlp, x: Tensor) -> Tensor:
    fc1, fc2 = cast(nn.Linear, mlp.fc1), cast(nn.Linear, mlp.fc2)
    output = fc2.bias.repeat(x.shape[0] * x.shape[1], 1)
    for units in _slices(fc1.out_features, MLP_SLICES):
        hidden = F.linear(x.view(output.shape), fc1.weight[units], fc1.bias[units])
        output.addmm_(mlp.act(hidden), fc2.weight[:, units].t())
        del hidden  # before the next slice's is made
    return output.view(x.shape)
