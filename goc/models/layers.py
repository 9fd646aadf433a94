"""The layers that DiT is made of, under the parameter names of its public release (which are timm's).

They are a few lines, and written here because importing timm costs every process two seconds; the tests hold them to
timm's.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORTH_NUMBERS = 2**19  # in the input of a layer; from then on slices are no slower
ATTENTION_SLICES, MLP_SLICES = 4, 8
MOST_PROBABILITIES = 2**26  # of attention that are computed at a time, where they are looked at


def worth_slicing(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer's in_slices is the better way: for large inputs [N, tokens, hidden] in fp32 on a CPU.

    It needs less memory, and is no slower, since activations stay in the processor's caches. Sums of 16-bit numbers
    would be rounded after every slice.
    """
    large = x.device.type == "cpu" and x.numel() > WORTH_NUMBERS
    return large and next(layer.parameters()).dtype == torch.float32


def _slices(width: int, count: int) -> Iterator[slice]:
    """About `count` slices of equal size that together are range(width)."""
    size = -(-width // count)
    return (slice(start, min(start + size, width)) for start in range(0, width, size))


def shown_attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attention [N, heads, tokens, size] without a fused kernel, and what tokens receive, float32 [N, tokens].

    That is the mean over heads of the probabilities, summed over queries; they are computed for some queries at a time.
    bias: added to the scores, float, broadcast; -inf: not attended to. scale: None = 1 / sqrt(size).
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    count = max(1, MOST_PROBABILITIES // (keys[..., 0].numel()))
    if bias is not None:
        bias = bias.expand(*bias.shape[:-2], queries.shape[-2], keys.shape[-2])
    outputs, received = [], []
    for start in range(0, queries.shape[-2], count):
        scores = (queries[..., start : start + count, :] * scale) @ keys.transpose(-2, -1)
        scores = scores if bias is None else scores + bias[..., start : start + count, :]
        probabilities = scores.softmax(dim=-1, dtype=torch.float32)
        if bias is not None:
            probabilities = probabilities.nan_to_num(0.0)  # of a query that attends to nothing
        outputs.append(probabilities.to(values.dtype) @ values)
        received.append(probabilities.mean(dim=1).sum(dim=1))
    return torch.cat(outputs, dim=-2), torch.stack(received).sum(dim=0)


class Attention(nn.Module):
    """Multi-head self-attention of tokens [N, tokens, hidden] -> same (Vaswani et al., arXiv 1706.03762)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2))

    def with_received(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same up to rounding, and the attention that tokens receive [N, tokens], for some rows at a time."""
        rows = max(1, MOST_PROBABILITIES // (self.num_heads * x.shape[1] ** 2))
        outputs, received = zip(*map(self._shown, x.split(rows)), strict=True)
        return torch.cat(outputs), torch.cat(received)

    def _shown(self, x: Tensor) -> tuple[Tensor, Tensor]:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        attended, received = shown_attention(*qkv.unbind(0))
        return self.proj(attended.transpose(1, 2).flatten(2)), received

    def in_slices(self, x: Tensor) -> Tensor:
        """The same up to rounding: what some heads at a time add is summed."""
        hidden, size = x.shape[-1], self.head_dim
        weights, biases = self.qkv.weight.view(3, hidden, hidden), self.qkv.bias.view(3, hidden)
        output = self.proj.bias.repeat(x.shape[0] * x.shape[1], 1)
        for heads in _slices(self.num_heads, ATTENTION_SLICES):
            rows = slice(heads.start * size, heads.stop * size)
            qkv = (F.linear(x, weight[rows], bias[rows]) for weight, bias in zip(weights, biases, strict=True))
            attended = F.scaled_dot_product_attention(*(part.unflatten(-1, (-1, size)).transpose(1, 2) for part in qkv))
            attended = attended.transpose(1, 2).reshape(len(output), -1)
            output.addmm_(attended, self.proj.weight[:, rows].t())
            del attended  # before the next slice's is made
        return output.view(x.shape)


class Mlp(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between them: [N, tokens, hidden] -> same."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))

    def in_slices(self, x: Tensor) -> Tensor:
        """The same up to rounding: what some units at a time add is summed."""
        output = self.fc2.bias.repeat(x.shape[0] * x.shape[1], 1)
        for units in _slices(self.fc1.out_features, MLP_SLICES):
            hidden = F.linear(x.view(output.shape), self.fc1.weight[units], self.fc1.bias[units])
            output.addmm_(self.act(hidden), self.fc2.weight[:, units].t())
            del hidden  # before the next slice's is made
        return output.view(x.shape)


class PatchEmbed(nn.Module):
    """Latents [N, C, H, W] -> tokens [N, tokens, hidden], one a patch, row by row."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution as one product, token by token."""
        n, channels, height, width = x.shape
        p = self.patch_size
        patches = x.reshape(n, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        assert self.proj.bias is not None
        return F.linear(patches.flatten(3).flatten(1, 2), self.proj.weight.flatten(1), self.proj.bias)


def sincos_positions(grid: int, hidden_size: int) -> Tensor:
    """Sines and cosines of the tokens' positions in a square grid, float32 [grid * grid, hidden]; the rows' first."""
    bands = 1.0 / 10000.0 ** (torch.arange(hidden_size // 4, dtype=torch.float32) / (hidden_size // 4))
    place = torch.arange(grid, dtype=torch.float32)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    angles = torch.stack([rows, columns], dim=-1).view(grid * grid, 2, 1) * bands
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(1)
