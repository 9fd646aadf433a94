"""What tokens receive in an attention module's call, seen where it calls torch, whatever its processor is."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from goc.models.layers import shown_attention
from goc.pipelines.hooks.carried import ENCODER, argument, arguments_of


class Shown(TorchFunctionMode):
    """Inside, the first attention among so many tokens is computed without a fused kernel, and looked at.

    counts: whether torch counts operations, of what it would have called. received: by tokens, float32 [N, tokens];
    attended: what it gave, [N, tokens, hidden].
    """

    def __init__(self, rows: int, tokens: int, counts: bool) -> None:
        super().__init__()
        self.rows, self.tokens, self.counts = rows, tokens, counts
        self.received: Tensor | None = None
        self.attended: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.received is None:
            return self.attention(*args, **kwargs)
        return func(*args, **kwargs)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """torch's, the same up to rounding."""
        of_rows = query.ndim == key.ndim == 4 and len(query) == self.rows
        looked_at = of_rows and query.shape[2] == key.shape[2] == self.tokens and not dropout_p and not is_causal
        if self.counts or not looked_at:
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if not looked_at:
            return attended
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        bias = attn_mask
        if bias is not None and bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(~bias, -torch.inf)
        with _disable_current_modes() if self.counts else contextlib.nullcontext():
            attended, self.received = shown_attention(query, key, value, bias, scale)
        self.attended = attended.transpose(1, 2).flatten(2)
        return attended


def received_in(
    module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], counts: bool
) -> tuple[Any, list[Tensor]]:
    """An attention module's output, and what tokens receive in it, float32 [N, tokens] of each of its inputs.

    None of them where it does not call torch's attention, or not with all its tokens. Inputs are the first argument
    and, of joint attention, the text; which of the two comes first is told by what is projected as the first's. counts:
    as for Shown.
    """
    names = arguments_of(module)
    asked = [names[0], *([ENCODER] if ENCODER in names[1:] else [])]
    given = [argument(name, names.index(name), args, kwargs) for name in asked]
    inputs = [x for x in given if isinstance(x, Tensor) and x.ndim == 3]
    sizes = [x.shape[1] for x in inputs]
    projected = list[Tensor]()
    out = getattr(module, "to_out", None)
    out = out[0] if isinstance(out, nn.ModuleList) else out
    watched: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if len(inputs) > 1 and isinstance(out, nn.Module):
        watched = out.register_forward_pre_hook(lambda _, args: projected.append(args[0]))
    with watched, Shown(len(inputs[0]) if inputs else 0, sum(sizes), counts) as shown:
        output = call(*args, **kwargs)
    if shown.received is None or shown.attended is None:
        return output, []
    if len(inputs) == 1:
        return output, [shown.received]
    for order in (1, -1):
        parts, received = (x.split(sizes[::order], dim=1)[::order] for x in (shown.attended, shown.received))
        if projected and torch.equal(projected[0], parts[0]):
            return output, list(received)
    return output, []
