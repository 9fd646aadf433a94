"""Tokens of a transformer's cached feed-forwards that are computed after all: a selection for each kind of tokens."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from goc.caching.cache import ScheduledCache, StepCache
from goc.caching.selection import Draws, Selection, square
from goc.methods import Partial
from goc.models.network import ATTENTION, BRANCHES, MLP
from goc.models.packed import Value
from goc.pipelines.structure import Layout, StructureError
from goc.planning.plan import Plan

log = logging.getLogger(__name__)

Kind = tuple[int, int, int]  # of tokens: a list of blocks, which of their feed-forward modules, which call in a pass
LARGEST_PATCH = 8
POSITIONS = 3  # of a token: which picture, its row and its column


class PlacesCache(ScheduledCache):
    """A plan's cache of a layout's places, with a selection for each kind of tokens, the image's and the text's, say.

    What selections call a block is one; where a block has no feed-forward for a kind, none of its tokens are selected.
    They go by the plan's schedule, but for the first step that the cache serves, in which all is computed.
    """

    def __init__(self, plan: Plan, layout: Layout) -> None:
        super().__init__(plan.mask, plan.new_predictor(), plan.site)
        self.plan, self.layout = plan, layout
        lists = [number for number, blocks in enumerate(layout.lists.values()) for _ in blocks]
        self.ranks: dict[int, tuple[int, int]] = {}  # a kind's first two numbers, of token-wise feed-forwards' places
        for index, why in layout.feed_forwards.items():
            before, block = (i for i in layout.feed_forwards if i < index), layout.places[index].block
            if not why:
                self.ranks[index] = lists[block], sum(layout.places[i].block == block for i in before)
        self.kinds: dict[Kind, Selection] = {}
        self.shapes: dict[Kind, torch.Size] = {}  # [rows, tokens, hidden]
        self.generators: Sequence[torch.Generator] = ()
        self.grid: Callable[[int], tuple[int, int] | None] = square
        self.first: int | None = None

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self.first = step if self.first is None else self.first
        for selection in self.kinds.values():
            selection.begin_step(step)

    def draw_from(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def of_kind(self, kind: Kind) -> Selection:
        """The selection of a kind of tokens."""
        if kind not in self.kinds:
            plan = self.plan
            selection = plan.way.selection.build(Partial(self.mask_of(kind[:2]), (), plan.interval))
            assert selection is not None  # or this were no such cache
            selection.begin_step(self.step)
            self.kinds[kind] = selection
        return self.kinds[kind]

    def mask_of(self, rank: tuple[int, int]) -> Tensor:
        """The schedule that the selection of a kind knows, bool [steps, blocks, 2]; rank: the kind's first numbers."""
        mask = torch.zeros(len(self.mask), self.layout.depth, BRANCHES, dtype=torch.bool)
        for index, place in enumerate(self.layout.places):
            if ATTENTION in place.branches:
                mask[:, place.block, ATTENTION] = self.mask[:, index, 0]
            if self.ranks.get(index) == rank:
                mask[:, place.block, MLP] = self.mask[:, index, 0]
        assert self.first is not None  # a step has begun
        mask[: self.first + 1] = False
        return mask

    def selection_of(self, block: int, branch: int) -> tuple[Selection, int] | None:
        rank = self.ranks.get(block)
        return None if rank is None else (self.of_kind((*rank, branch)), self.layout.places[block].block)

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        if block in self.ranks and (kind := (*self.ranks[block], branch)) not in self.shapes:
            self.plan.way.selection.check_tokens(feature.shape[1])
            selection, rows = self.of_kind(kind), len(feature)
            # rows that are not the latents' have the same numbers
            generators = self.generators[: rows if rows <= len(self.generators) else 1]
            selection.draws = Draws([generator.clone_state() for generator in generators])
            selection.grid = (lambda tokens: None) if any(kind[1:]) else self.grid  # a text's tokens have no places
            self.shapes[kind] = feature.shape
        elif block in self.ranks and feature.shape != self.shapes[kind]:
            name, known = self.layout.places[block].name, self.shapes[kind][1]
            raise StructureError(
                f"{name}: has {feature.shape[1]} tokens, and blocks before it in its list {known}; "
                "selection must be none"
            )
        super().store(block, branch, feature)

    def wants_attention(self, block: int) -> bool:
        """Of a block of the layout."""
        kinds = [self.of_kind((*rank, 0)) for rank in dict.fromkeys(self.ranks.values())]
        return any(selection.attention_wanted[self.step][block] for selection in kinds)

    def shown(self, place: int, output: int, tokens: int, parts: Sequence[Tensor]) -> None:
        """A block's attention was computed: what its tokens of each kind received, [N, tokens]; raises StructureError.

        The feed-forward of this place and call has so many tokens.
        """
        selection, block = self.selection_of(place, output) or (None, 0)
        if selection is not None and selection.attention_wanted[self.step][block]:
            selection.attended(block, self.part(parts, (*self.ranks[place], output), tokens, "attention"))

    def part(self, parts: Sequence[Tensor], kind: Kind, tokens: int, what: str) -> Tensor:
        """The tensor [N, tokens, ...] for a kind of so many tokens; where several may be, they are in the kinds' order.

        Raises StructureError.
        """
        fitting = [index for index, part in enumerate(parts) if part.shape[1] == tokens]
        index = fitting[0] if len(fitting) == 1 else sum(kind[1:])
        if index not in fitting:
            raise StructureError(
                f"selection={self.plan.way.selection.name}: looks at the {what} of a feed-forward's {tokens} tokens, "
                "which this transformer does not show; selection=norm and random look at none"
            )
        return parts[index]

    def ended(self, streams: Sequence[Tensor]) -> int:
        """A pass is over, with this out of the last blocks, [N, tokens, hidden] each; what selecting took, in MACs."""
        macs = 0
        for kind, (rows, tokens, hidden) in self.shapes.items():
            selection = self.kinds[kind]
            if selection.looks_at_stream:
                selection.finished(self.part(streams, kind, tokens, "stream"))
            macs += rows * selection.macs(tokens, hidden)[self.step]
        return macs

    def held(self) -> list[Value]:
        return [*super().held(), *(tensor for selection in self.kinds.values() for tensor in selection.held())]


def cache_of(plan: Plan, layout: Layout) -> StepCache:
    """A plan's cache of a layout's places, with empty state, for one batch."""
    return PlacesCache(plan, layout) if plan.way.selection.selects else plan.new_cache()


def generators_of(rows: Iterable[Tensor]) -> list[torch.Generator]:
    """Generators of what is drawn for rows of a batch, by the first latents of each: guidance's halves have the same.

    So a sample's are its own, whatever is beside it, and nothing of its noise is used up.
    """
    digests = [hashlib.sha256(row.detach().float().cpu().contiguous().numpy().tobytes()).digest() for row in rows]
    return [torch.Generator().manual_seed(int.from_bytes(digest[:8], "little")) for digest in digests]


def predicted_whole(layout: Layout) -> list[str]:
    """What no token is computed of: classes, each with the reason."""
    reasons = {index: why for index, why in layout.feed_forwards.items() if why}
    reasons |= {i: "attention and feed-forward are one" for i, place in enumerate(layout.places) if place.whole}
    return list(dict.fromkeys(f"{type(layout.module(index)).__name__} ({why})" for index, why in reasons.items()))


def report_whole(selection: str, layout: Layout) -> None:
    """Say what no token is computed of."""
    if whole := predicted_whole(layout):
        log.warning(f"selection={selection}: cached whole, without any token: {', '.join(whole)}")


def check_token_wise(transformer: nn.Module, layout: Layout) -> None:
    """Raise StructureError for a transformer no feed-forward of which can be given some of its tokens."""
    if all(layout.feed_forwards.values()):
        raise StructureError(
            f"{type(transformer).__name__}: selection must be none, as no feed-forward of it is computed token by "
            f"token: {', '.join(predicted_whole(layout)) or 'it has none'}"
        )


def grid_of(ids: Tensor | None, shape: Sequence[int], tokens: int) -> tuple[int, int] | None:
    """Rows and columns of so many tokens, or of each of their frames; None: they have none, or it cannot be told.

    ids: positions of tokens whose latents are packed, [tokens, POSITIONS]. shape: of latents [N, C, (frames,) height,
    width], which go into square patches.
    """
    if ids is not None:
        ids = ids if ids.ndim == 2 else ids[0]
        if ids.shape[1] != POSITIONS:
            return None
        height, width = (int(column.max()) + 1 for column in ids[:, -2:].unbind(1))
        return (height, width) if len(ids) == tokens and tokens % (height * width) == 0 else None
    if len(shape) < 4:
        return None
    *frames, height, width = shape[2:]
    for patch in range(1, LARGEST_PATCH + 1):
        rows, columns = height // patch, width // patch
        if tokens == rows * columns * (frames[0] if frames else 1):
            return rows, columns
    return None
