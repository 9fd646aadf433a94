"""What a network is to the framework: tokens through blocks of two branches, whose features a cache may stand in for.

`Network` is the base of DiT and of other people's networks (goc.plugin.Network): it walks through the blocks, and asks
a `FeatureCache` before each branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from goc.models.counting import counted_macs
from goc.models.gated import Add, Gated, add_gated, gated_by
from goc.models.packed import Value, unpacked
from goc.models.seen import Seen
from goc.system.errors import ConfigError

ATTENTION, MLP = 0, 1
BRANCHES = 2

Site = Literal["branch", "stack"]
Terms = Sequence[tuple[float, Value]]  # a value as a weighted sum of tensors of the same shape


class FeatureCache(Protocol):
    """What a network asks of a cache: may a stored feature stand in for this one, and here is a fresh one.

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


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulate operations of a network for one image.

    forward: of a full pass. cells: of each branch but its gate, which is what caching it saves; gates: of the gates;
    both int64 [blocks, 2]. modulated_input: of looking at the first branch's input. stream: tokens and width of the
    residual stream. token: of an MLP for one token, 0 where that is not known.
    """

    forward: int
    cells: Tensor
    gates: Tensor
    modulated_input: int
    stream: tuple[int, int]
    token: int = 0


class Network(nn.Module):
    """A class-conditional network of transformer blocks: h <- h + gate * branch(h) for attention, then for the MLP.

    A network of your own sets the attributes below in `__init__`, and has `tokens`, `branch` and `output`, and `gate`
    if it gates its branches; the rest has defaults. Outside of training `h` is changed in place, so that no branch may
    return it, or a view of it.

    input_size, in_channels: of the input [N, C, H, W], H = W. num_classes: labels 0..num_classes-1. depth: blocks.
    null_label: whether num_classes is a label too, that of guidance's unconditional half. learned_variance: whether
    the output has 2 C channels (the estimate, then the variance's interpolation, which sampler=ddpm needs) or C.
    """

    input_size: int
    in_channels: int
    num_classes: int
    depth: int
    null_label: bool = True
    learned_variance: bool = False
    add_all: Add = staticmethod(add_gated)  # in a step that is cached whole

    def tokens(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream before the first block, h [N, tokens, hidden], and the blocks' condition [N, ...].

        x: noisy latents [N, C, H, W]. t: timesteps in 0..999, whole but for sampler.timesteps (times in [0, 1] with
        flow matching), [N] or one for all [1]. y: labels [N]. h must be a tensor of its own. Row i of both must be of
        sample i alone.
        """
        raise NotImplementedError

    def branch(self, block: int, branch: int, h: Tensor, modulation: Any) -> Tensor:
        """A branch's feature [N, tokens, hidden] before its gate, without what it is added to.

        block: 0..depth-1. branch: ATTENTION or MLP. modulation: what `modulation` made of the condition.
        """
        raise NotImplementedError

    def output(self, h: Tensor, condition: Tensor) -> Tensor:
        """The noise (the velocity with flow matching), [N, C, H, W], or [N, 2 C, H, W] with a learned variance."""
        raise NotImplementedError

    def gate(self, block: int, branch: int, modulation: Any) -> Tensor:
        """What a branch's feature is multiplied by, [N, hidden] or [1, 1]; also where the feature is a cache's."""
        return torch.ones((1, 1), device=next(self.parameters()).device)

    def modulation(self, condition: Tensor) -> Any:
        """What the branches are handed of the condition [N, ...], made once a step: by default itself."""
        return condition

    def modulated_input(self, h: Tensor, modulation: Any) -> Tensor:
        """What the first attention branch sees of h, for rules that look at it; by default h [N, tokens, hidden]."""
        return h

    @cached_property
    def macs(self) -> Macs:
        """What the network costs; by default as torch counts it."""
        device = next(self.parameters()).device
        x = torch.zeros(1, self.in_channels, self.input_size, self.input_size, device=device)
        t, y = torch.zeros(1, device=device), torch.zeros(1, dtype=torch.long, device=device)
        with torch.inference_mode():
            h, condition = self.tokens(x, t, y)
            modulation = self.modulation(condition)
        each = [(block, branch) for block in range(self.depth) for branch in range(BRANCHES)]
        gates = torch.tensor([counted_macs(partial(self.gate, *cell, modulation)) for cell in each])
        whole = torch.tensor([counted_macs(partial(self.add_branch, *cell, h, modulation)) for cell in each])
        return Macs(
            counted_macs(partial(self, x, t, y)),
            (whole - gates).view(-1, BRANCHES),
            gates.view(-1, BRANCHES),
            counted_macs(partial(self.modulated_input, h, modulation)),
            (h.shape[1], h.shape[2]),
        )

    def stack_modulation(self) -> None:
        """Called once on a GPU, where one product for all blocks is faster than many; by default nothing."""

    def compile_branches(self) -> None:
        """Compile what a step computes; raises ConfigError where the network has no such way."""
        raise ConfigError(f"compile=true: not supported with {type(self).__name__}, which has no compile_branches()")

    def add_branch(self, block: int, branch: int, h: Tensor, modulation: Any) -> tuple[Tensor, Tensor]:
        """Compute one branch: h [N, tokens, hidden] after it, in place outside of training, and its feature."""
        feature = self.branch(block, branch, h, modulation)
        return add_gated(h, [(1.0, self.gate(block, branch, modulation), feature)]), feature

    def add_showing(self, block: int, h: Tensor, modulation: Any) -> tuple[Tensor, Tensor, Tensor]:
        """As `add_branch` of attention, and the attention that tokens receive [N, tokens]; for selections alone."""
        raise NotImplementedError

    def some_tokens(self, block: int, branch: int, h: Tensor, modulation: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """A branch's feature of some tokens alone [N, count, hidden], and its gate; for selections alone."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor, y: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """The output for x, t, y as `tokens` and `output` have them.

        cache: stands in for branches whose features it holds; None computes every branch.
        """
        h, condition = self.tokens(x, t, y)
        modulation = self.modulation(condition)
        h = self.stack(h, modulation, None) if cache is None else self.decided(x, h, condition, modulation, cache)
        return self.output(h, condition)

    def decided(self, x: Tensor, h: Tensor, condition: Tensor, modulation: Any, cache: FeatureCache) -> Tensor:
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
            of_rows = self.modulation(condition[rows])
            h[rows] = self.checked(h[rows], of_rows, part, before[rows])
        return h

    def checked(self, h: Tensor, modulation: Any, cache: FeatureCache, before: Tensor) -> Tensor:
        """All blocks, and the last one once more where the cache checks what stands in for it: h -> same."""
        if not cache.checks:
            return self.stack(h, modulation, cache, before)
        last = range(self.depth - 1, self.depth)
        h = self.stack(h, modulation, cache, blocks=range(self.depth - 1))
        computed = self.computed(h.clone(), modulation, last)
        h = self.stack(h, modulation, cache, blocks=last)
        cache.check(h, computed)
        return h

    def computed(self, h: Tensor, modulation: Any, blocks: range) -> Tensor:
        """Some blocks, all computed: h [N, tokens, hidden] -> same, in place outside of training."""
        for index in blocks:
            for branch in range(BRANCHES):
                h, _ = self.add_branch(index, branch, h, modulation)
        return h

    def stack(
        self,
        h: Tensor,
        modulation: Any,
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
            for branch in range(BRANCHES):
                gate = None
                if cache is not None and (tokens := cache.selected(index, branch)) is not None:
                    computed = True
                    h, waiting = add_gated(h, waiting), []
                    fresh, gate = self.some_tokens(index, branch, h, modulation, tokens)
                    cache.refresh(index, branch, tokens, fresh)
                terms = None if cache is None else cache.lookup(index, branch)
                if terms is not None:
                    if terms:
                        gate = self.gate(index, branch, modulation) if gate is None else gate
                        waiting += gated_by(gate, terms)
                    continue
                computed = True
                h, waiting = add_gated(h, waiting), []
                if cache is not None and branch == ATTENTION and cache.wants_attention(index):
                    h, feature, received = self.add_showing(index, h, modulation)
                    cache.attended(index, received)
                else:
                    h, feature = self.add_branch(index, branch, h, modulation)
                if cache is not None:
                    cache.store(index, branch, feature)
        # a step that is cached as a whole always adds as many tensors, so one compiled graph serves all of them
        h = add_gated(h, waiting) if computed else self.add_all(h, waiting)
        return h if cache is None else cache.finish(h)

    def cached_stack(self, h: Tensor, modulation: Any, cache: FeatureCache, before: Tensor) -> Tensor:
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
            h.add_(unpacked(tensor), alpha=coefficient)
        return h
