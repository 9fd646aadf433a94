"""A plain transformer, as U-ViT (arXiv 2209.12152) without its long skips: time and label are tokens, nothing gates."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goc.plugin import Network

EXTRA = 2  # tokens before those of the image


class Block(nn.Module):
    """Attention and an MLP, each of the normalised tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, branch: int, h: Tensor) -> Tensor:
        h = self.norms[branch](h)
        if branch == 1:
            return self.mlp(h)
        heads = self.qkv(h).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        return self.projection(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Plain(Network):
    """Noise in, noise out: a token for each 2x2 pixels, one for the time, one for the label."""

    def __init__(self, input_size: int, in_channels: int, num_classes: int, depth: int, width: int = 48) -> None:
        super().__init__()
        self.input_size, self.in_channels, self.num_classes = input_size, in_channels, num_classes
        self.depth, self.width = depth, width
        self.patches = nn.Conv2d(in_channels, width, 2, stride=2)
        self.time, self.labels = nn.Linear(width, width), nn.Embedding(num_classes + 1, width)  # and the null label
        self.positions = nn.Parameter(0.02 * torch.randn(EXTRA + (input_size // 2) ** 2, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.pixels = nn.LayerNorm(width), nn.Linear(width, 4 * in_channels)

    def tokens(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = torch.exp(-torch.arange(self.width // 2, device=x.device) * 18.4 / self.width)
        angles = t[:, None].float() * frequencies
        time = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)).expand(len(x), -1)
        extra = torch.stack([time, self.labels(y)], dim=1)
        h = torch.cat([extra, self.patches(x).flatten(2).transpose(1, 2)], dim=1)
        return h + self.positions, extra  # a condition, which no block asks for here

    def branch(self, block: int, branch: int, h: Tensor, modulation: Tensor) -> Tensor:
        return self.blocks[block](branch, h)

    def output(self, h: Tensor, condition: Tensor) -> Tensor:
        pixels = self.pixels(self.norm(h[:, EXTRA:])).transpose(1, 2)
        return F.fold(pixels, self.input_size, kernel_size=2, stride=2)
