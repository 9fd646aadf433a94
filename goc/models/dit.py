"""Diffusion transformer with adaLN-Zero blocks (DiT, Peebles & Xie, arXiv 2212.09748).

Parameter names are those of the public DiT release, so that its state dicts load strictly.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goc.models.gated import add_compiled, add_gated
from goc.models.layers import Attention, Mlp, PatchEmbed, sincos_positions, worth_slicing
from goc.models.modulation import Modulation, Stacked, StackedModulation, Vectors
from goc.models.network import ATTENTION, BRANCHES, Macs, Network

# depth, hidden size, heads of the published models (DiT, table 1)
PUBLISHED_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
PUBLISHED_PATCHES = (2, 4, 8)


class TimestepEmbedder(nn.Module):
    """Timesteps [N] -> embeddings [N, hidden]: sinusoidal frequencies, then a two-layer MLP."""

    frequencies = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(self.frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        scale = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t[:, None].float() * scale
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class LabelEmbedder(nn.Module):
    """Labels [N] -> embeddings [N, hidden]: the classes, and after them the null label of guidance, if there is one."""

    def __init__(self, labels: int, hidden_size: int) -> None:
        super().__init__()
        weight = torch.empty(labels, hidden_size)
        # on the meta device, a random weight would load torch's compiler
        self.embedding_table = nn.Embedding(labels, hidden_size, _weight=weight if weight.is_meta else None)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens x [N, tokens, hidden] scaled by 1 + scale and shifted, both [N, hidden]."""
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))


def adaln_linear(module: nn.Module) -> nn.Linear:
    """The linear layer of a module's adaLN modulation (the SiLU before it is applied once for all modules)."""
    return cast(nn.Linear, cast(nn.Sequential, module.adaLN_modulation)[1])


class DiTBlock(nn.Module):
    """Attention and MLP, each normalised, modulated and gated by the condition: h <- h + gate * branch(h)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden_size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def compute(self, branch: int, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """A branch's feature [N, tokens, hidden] before its gate; shift and scale [N, hidden]."""
        norm, layer = ((self.norm1, self.attn), (self.norm2, self.mlp))[branch]
        x = modulate(norm(h), shift, scale)
        return layer.in_slices(x) if worth_slicing(layer, x) else layer(x)

    def compute_tokens(self, branch: int, h: Tensor, shift: Tensor, scale: Tensor, tokens: Tensor) -> Tensor:
        """The MLP's feature of some tokens alone, int64 [N, count]: [N, count, hidden]."""
        return self.compute(branch, h.gather(1, tokens.unsqueeze(-1).expand(-1, -1, h.shape[2])), shift, scale)

    def showing_attention(self, h: Tensor, vectors: Vectors) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward` of the attention branch, and the attention that tokens receive [N, tokens]."""
        shift, scale, gate = vectors
        feature, received = self.attn.with_received(modulate(self.norm1(h), shift, scale))
        return add_gated(h, [(1.0, gate, feature)]), feature, received

    def forward(self, branch: int, h: Tensor, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """Add one branch: h [N, tokens, hidden] after it, in place outside of training, and its feature.

        vectors: the branch's shift, scale and gate.
        """
        shift, scale, gate = vectors
        feature = self.compute(branch, h, shift, scale)
        return add_gated(h, [(1.0, gate, feature)]), feature


class FinalLayer(nn.Module):
    """Tokens [N, tokens, hidden] -> patches [N, tokens, patch * patch * channels]."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, h: Tensor, activated: Tensor) -> Tensor:
        shift, scale = adaln_linear(self)(activated).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(h), shift, scale))


class DiT(Network):
    """Class-conditional diffusion transformer predicting noise and the learned-range variance.

    Args:
        input_size: side of the (square) input in latent pixels; a multiple of patch_size.
        patch_size: side of a patch in latent pixels.
        in_channels: channels C of the input; the output has 2 C (noise, then variance), or C without a variance.
        hidden_size: width of the residual stream; a multiple of num_heads and of 4.
        depth: number of blocks. num_heads: attention heads. num_classes: labels without the null label.
        out_channels: C without a learned variance. labels: num_classes without a null label, which guidance needs.
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        num_classes: int = 1000,
        out_channels: int | None = None,
        labels: int | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.patch_size = input_size, patch_size
        self.in_channels, self.out_channels = in_channels, out_channels or 2 * in_channels
        self.hidden_size, self.depth, self.num_classes = hidden_size, depth, num_classes
        labels = labels or num_classes + 1
        self.null_label, self.learned_variance = labels > num_classes, self.out_channels > in_channels

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(labels, hidden_size)
        self.num_tokens = (input_size // patch_size) ** 2
        self.register_buffer("pos_embed", torch.empty(1, self.num_tokens, hidden_size))
        self.pos_embed: Tensor
        self.blocks = nn.ModuleList(DiTBlock(hidden_size, num_heads) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, self.out_channels)
        self.linears = [adaln_linear(block) for block in self.blocks]
        self.stacked: Stacked | None = None
        if not self.pos_embed.is_meta:  # there the tensors have no storage yet: a checkpoint brings its own
            self.initialize()

    @classmethod
    def published(cls, name: str, input_size: int = 32, num_classes: int = 1000) -> "DiT":
        """A published architecture by its name, such as "DiT-XL/2"; raises ValueError for an unknown one.

        SiT's are the same (arXiv 2401.08740, section 4), by names such as "SiT-XL/2".
        """
        kinds = {f"{size}/{patch}": (size, patch) for size in PUBLISHED_SIZES for patch in PUBLISHED_PATCHES}
        paper, _, kind = name.partition("-")
        if paper not in ("DiT", "SiT") or kind not in kinds:
            names = [f"{paper}-{kind}" for paper in ("DiT", "SiT") for kind in kinds]
            raise ValueError(f"{name}: must be one of {', '.join(names)}")
        size, patch = kinds[kind]
        depth, hidden_size, num_heads = PUBLISHED_SIZES[size]
        return cls(input_size, patch, 4, hidden_size, depth, num_heads, num_classes)

    def output_halves(self) -> Tensor:
        """The last layer's weights by halves of the output channels, [patch * patch, 2, C, hidden]: a view of them.

        Only with a learned variance are there two.
        """
        return self.final_layer.linear.weight.unflatten(0, (-1, 2, self.in_channels))

    def initialize(self) -> None:
        """Xavier weights, and zero gates and outputs (adaLN-Zero), so that every block starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        patches = self.x_embedder.proj
        nn.init.xavier_uniform_(patches.weight.view(patches.out_channels, -1))
        nn.init.constant_(cast(Tensor, patches.bias), 0)
        for embedder in (self.t_embedder.mlp[0], self.t_embedder.mlp[2], self.y_embedder.embedding_table):
            nn.init.normal_(cast(Tensor, embedder.weight), std=0.02)
        outputs = [adaln_linear(module) for module in (*self.blocks, self.final_layer)]
        for linear in (*outputs, self.final_layer.linear):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        grid = self.input_size // self.patch_size
        self.pos_embed.copy_(sincos_positions(grid, self.hidden_size))

    def stack_modulation(self) -> None:
        """Compute the modulation vectors of all blocks in one product from now on, until its weights are moved."""
        self.stacked = Stacked.of(self.linears)

    def modulation(self, activated: Tensor) -> Modulation:
        """The blocks' modulation vectors for a condition; activated: SiLU of it, [N, hidden]."""
        if self.stacked is not None and self.stacked.holds(self.linears):
            return StackedModulation(self.linears, activated, self.stacked)
        return Modulation(self.linears, activated)

    def compile_branches(self) -> None:
        """Compile a computed branch (two graphs for all blocks), and the sum of a step that is cached whole."""
        for block in self.blocks:
            block.compile()
        self.add_all = add_compiled()

    def tokens(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of x, and SiLU of the embedded t and y, [N, hidden]."""
        return self.embed(x), F.silu(self.t_embedder(t) + self.y_embedder(y))

    def output(self, h: Tensor, condition: Tensor) -> Tensor:
        """[N, 2 C, H, W]: predicted noise, then the variance interpolation v; without one [N, C, H, W]."""
        return self.unpatchify(self.final_layer(h, condition))

    def embed(self, x: Tensor) -> Tensor:
        """Latents [N, C, H, W] -> tokens [N, tokens, hidden] with their positions."""
        return self.x_embedder(x).to(self.pos_embed.dtype).add_(self.pos_embed)

    def modulated_input(self, h: Tensor, modulation: Modulation) -> Tensor:
        """What the first attention branch sees: h [N, tokens, hidden] normalised and modulated."""
        return modulate(self.block(0).norm1(h), *modulation.vectors(0, 0, 2))

    def block(self, index: int) -> DiTBlock:
        """One of the blocks."""
        return cast(DiTBlock, self.blocks[index])

    def gate(self, block: int, branch: int, modulation: Modulation) -> Tensor:
        return modulation.gate(block, branch)

    def add_branch(self, block: int, branch: int, h: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor]:
        return self.blocks[block](branch, h, modulation.of(block, branch))

    def add_showing(self, block: int, h: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor, Tensor]:
        return self.block(block).showing_attention(h, modulation.of(block, ATTENTION))

    def some_tokens(
        self, block: int, branch: int, h: Tensor, modulation: Modulation, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        shift, scale, gate = modulation.of(block, branch)
        return self.block(block).compute_tokens(branch, h, shift, scale, tokens), gate

    @property
    def macs(self) -> Macs:
        """Matrix products alone, by their formulas: what torch counts."""
        tokens, hidden, patch_area = self.num_tokens, self.hidden_size, self.patch_size**2
        square = hidden**2
        modulation, token = 2 * square, 8 * square  # a branch's shift and scale; an MLP's two layers
        attention = 4 * tokens * square + 2 * tokens**2 * hidden
        cells = torch.tensor([[attention, tokens * token]]).expand(self.depth, BRANCHES) + modulation
        gates = torch.full_like(cells, square)
        embed = tokens * patch_area * self.in_channels * hidden
        timestep = self.t_embedder.frequencies * hidden + square
        final = modulation + tokens * hidden * patch_area * self.out_channels
        forward = embed + timestep + final + int((cells + gates).sum())
        return Macs(forward, cells, gates, modulation, (tokens, hidden), token)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """[N, tokens, patch * patch * 2C] -> [N, 2C, H, W]; C instead of 2C without a learned variance."""
        grid, p = self.input_size // self.patch_size, self.patch_size
        patches = patches.reshape(-1, grid, grid, p, p, self.out_channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, self.input_size, self.input_size)
