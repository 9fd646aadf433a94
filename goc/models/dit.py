"""Diffusion transformer with adaLN-Zero blocks (DiT, Peebles & Xie, arXiv 2212.09748).

Parameter names are those of the public DiT release, so that its state dicts load strictly.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goc.models.gated import Add, Gated, add_compiled, add_gated
from goc.models.layers import Attention, Mlp, PatchEmbed, sincos_positions, worth_slicing
from goc.models.modulation import Modulation, Stacked, StackedModulation, Vectors
from goc.models.seen import Seen

ATTENTION, MLP = 0, 1
BRANCHES = 2

# depth, hidden size, heads of the published models (DiT, table 1)
PUBLISHED_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
PUBLISHED_PATCHES = (2, 4, 8)


Site = Literal["branch", "stack"]
Terms = Sequence[tuple[float, Tensor]]  # a value as a weighted sum of tensors of the same shape


class FeatureCache(Protocol):
    """What a denoiser asks of a cache: may a stored feature stand in for this one, and here is a fresh one.

    A feature is a branch's output before its gate (site "branch"), or what all blocks together add to the residual
    stream (site "stack"; there is one cell a step, block 0 and branch 0).
    """

    site: Site

    @property
    def first_blocks(self) -> int:
        """How many first blocks are computed in each step before `decide`; only at site "stack" any."""

    @property
    def of_all(self) -> bool:
        """At site "stack": whether the feature is what all blocks add, or what those after the first ones do."""

    def decide(self, seen: Seen) -> None:
        """Called once in each forward pass, with what the network shows before the step is computed."""

    def parts(self, rows: int) -> Sequence[tuple[list[int], "FeatureCache"]] | None:
        """Which of so many rows are treated alike in this step, and the cache of each; None: all, by this one."""

    def lookup(self, block: int, branch: int) -> Terms | None:
        """The feature to use instead of computing it, as terms [N, tokens, hidden]; [] adds nothing. None: compute it.

        Terms and not their sum, because a sum is a tensor more, while each term can be added where it is needed. They
        must stay as they are until the next feature is stored.
        """

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        """Take over a feature that was just computed and used; the cache may change it in place."""

    @property
    def checks(self) -> bool:
        """Whether the last block is computed beside what stands in for it, for `check`; only at site "branch"."""

    def check(self, predicted: Tensor, computed: Tensor) -> None:
        """What comes out of the last block [N, tokens, hidden]: with its stand-in, and computed."""

    def selected(self, block: int, branch: int) -> Tensor | None:
        """Tokens that are computed although `lookup` stands in for the others, int64 [N, count]; asked before it."""

    def refresh(self, block: int, branch: int, tokens: Tensor, fresh: Tensor) -> None:
        """Take over the features of the selected tokens [N, count, hidden], before `lookup` names the cell's."""

    def wants_attention(self, block: int) -> bool:
        """Whether `attended` is to be told of a block's attention, which is then computed without a fused kernel."""

    def attended(self, block: int, received: Tensor) -> None:
        """The attention that tokens receive [N, tokens]: the mean over heads, summed over queries."""

    def finish(self, h: Tensor) -> Tensor:
        """The residual stream after the last block of a step [N, tokens, hidden] -> what takes its place; site branch.

        It must stay as it is.
        """


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


class DiT(nn.Module):
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
        self.add_all: Add = add_gated
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

    def forward(self, x: Tensor, t: Tensor, y: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Predict noise and variance.

        Args:
            x: noisy latents [N, C, H, W]. t: timesteps in 0..999, [N] or one for all [1]. y: labels [N], where
                `num_classes` is the null label.
            cache: stands in for branches whose features it holds; None computes every branch.

        Returns:
            [N, 2 C, H, W]: predicted noise, then the variance interpolation v; without one [N, C, H, W].
        """
        h = self.embed(x)
        activated = F.silu(self.t_embedder(t) + self.y_embedder(y))
        modulation = self.modulation(activated)
        h = self.stack(h, modulation, None) if cache is None else self.decided(x, h, activated, modulation, cache)
        return self.unpatchify(self.final_layer(h, activated))

    def decided(self, x: Tensor, h: Tensor, activated: Tensor, modulation: Modulation, cache: FeatureCache) -> Tensor:
        """All blocks, once the cache has decided what is computed: h [N, tokens, hidden] -> same."""
        first = cache.first_blocks
        before = h.clone() if first else h
        h = self.computed(h, modulation, range(first))
        cache.decide(Seen(x, before, h, lambda: self.modulated_input(before, modulation)))
        parts = cache.parts(len(h))
        if parts is None:
            return self.checked(h, modulation, cache, before)
        for rows, part in parts:
            if len(rows) == len(h):
                return self.checked(h, modulation, part, before)
            own = self.modulation(activated[rows])
            h[rows] = self.checked(h[rows], own, part, before[rows])
        return h

    def checked(self, h: Tensor, modulation: Modulation, cache: FeatureCache, before: Tensor) -> Tensor:
        """All blocks, and the last one once more where the cache checks what stands in for it: h -> same."""
        if not cache.checks:
            return self.stack(h, modulation, cache, before)
        last = range(self.depth - 1, self.depth)
        h = self.stack(h, modulation, cache, blocks=range(self.depth - 1))
        computed = self.computed(h.clone(), modulation, last)
        h = self.stack(h, modulation, cache, blocks=last)
        cache.check(h, computed)
        return h

    def embed(self, x: Tensor) -> Tensor:
        """Latents [N, C, H, W] -> tokens [N, tokens, hidden] with their positions."""
        return self.x_embedder(x).to(self.pos_embed.dtype).add_(self.pos_embed)

    def modulated_input(self, h: Tensor, modulation: Modulation) -> Tensor:
        """What the first attention branch sees: h [N, tokens, hidden] normalised and modulated."""
        return modulate(cast(DiTBlock, self.blocks[0]).norm1(h), *modulation.vectors(0, 0, 2))

    def computed(self, h: Tensor, modulation: Modulation, blocks: range) -> Tensor:
        """Some blocks, all computed: h [N, tokens, hidden] -> same, in place outside of training."""
        for index in blocks:
            for branch in range(BRANCHES):
                h, _ = self.blocks[index](branch, h, modulation.of(index, branch))
        return h

    def stack(
        self,
        h: Tensor,
        modulation: Modulation,
        cache: FeatureCache | None,
        before: Tensor | None = None,
        blocks: range | None = None,
    ) -> Tensor:
        """All blocks: h [N, tokens, hidden] -> same, in place outside of training.

        before: h before the cache's first blocks, which are computed already. blocks: only these, at site "branch".
        """
        if cache is not None and cache.site == "stack":
            return self.cached_stack(h, modulation, cache, h if before is None else before)
        waiting: list[Gated] = []  # what stands in for cached cells, added before h is needed again
        computed = False
        for index in range(self.depth) if blocks is None else blocks:
            block = cast(DiTBlock, self.blocks[index])
            for branch in range(BRANCHES):
                gate = None
                if cache is not None and (tokens := cache.selected(index, branch)) is not None:
                    computed = True
                    h, waiting = add_gated(h, waiting), []
                    shift, scale, gate = modulation.of(index, branch)
                    cache.refresh(index, branch, tokens, block.compute_tokens(branch, h, shift, scale, tokens))
                terms = None if cache is None else cache.lookup(index, branch)
                if terms is not None:
                    if terms:
                        gate = modulation.gate(index, branch) if gate is None else gate
                        waiting += [(coefficient, gate, tensor) for coefficient, tensor in terms]
                    continue
                computed = True
                h, waiting = add_gated(h, waiting), []
                vectors = modulation.of(index, branch)
                if cache is not None and branch == ATTENTION and cache.wants_attention(index):
                    h, feature, received = block.showing_attention(h, vectors)
                    cache.attended(index, received)
                else:
                    h, feature = block(branch, h, vectors)
                if cache is not None:
                    cache.store(index, branch, feature)
        # a step that is cached as a whole always adds as many tensors, so one compiled graph serves all of them
        h = add_gated(h, waiting) if computed else self.add_all(h, waiting)
        return h if cache is None else cache.finish(h)

    def cached_stack(self, h: Tensor, modulation: Modulation, cache: FeatureCache, before: Tensor) -> Tensor:
        """All blocks as one cell, what they add; h [N, tokens, hidden] is overwritten."""
        start, first = before if cache.of_all else h, cache.first_blocks
        terms = cache.lookup(0, 0)
        if terms is None:
            if first:
                output = self.computed(h.clone(), modulation, range(first, self.depth))
            else:
                output = self.stack(h.clone(), modulation, None)
            cache.store(0, 0, output - start if torch.is_grad_enabled() else torch.sub(output, start, out=h))
            return output
        if start is not h:
            h.copy_(start)
        for coefficient, tensor in terms:
            h.add_(tensor, alpha=coefficient)
        return h

    def unpatchify(self, patches: Tensor) -> Tensor:
        """[N, tokens, patch * patch * 2C] -> [N, 2C, H, W]; C instead of 2C without a learned variance."""
        grid, p = self.input_size // self.patch_size, self.patch_size
        patches = patches.reshape(-1, grid, grid, p, p, self.out_channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, self.input_size, self.input_size)
