"""Where a transformer's blocks and their branches are, found by how it is built, or named by the user."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from goc.caching.schedule import BRANCH_NAMES
from goc.models.network import ATTENTION, BRANCHES, MLP, Site
from goc.pipelines.token_wise import not_token_wise
from goc.system.errors import GocError

OUTPUTS = 3  # tensors that a place may give in a pass: attention's for the image, for the text, and for an image prompt
FEED_FORWARD = re.compile(r"(ff|ffn|mlp|feed_forward|feedforward)(_\w+)?", re.IGNORECASE)
FEED_FORWARD_CLASS = re.compile(r"FeedForward|Mlp|MLP|FFN")

Blocks = Sequence[str]
Branches = Mapping[str, Sequence[str]]


class StructureError(GocError):
    """A model whose blocks or branches cannot be found, or are not those that were named."""


@dataclass(frozen=True)
class Place:
    """A module whose output is kept: a branch of a block, or a block.

    name: in the transformer. block: its number over all lists. branches: the columns of a mask [evaluations, blocks, 2]
    that it stands in; it is cached where all of them are.
    """

    name: str
    block: int
    branches: tuple[int, ...]
    whole: bool  # a block: what is kept is what it, or the span of blocks that it begins, adds to its inputs


@dataclass(frozen=True)
class Layout:
    """The places of a transformer that are cached, at a site.

    lists: its blocks, by list. others: lists of blocks that are computed in every step, as a refiner's of the text.
    """

    site: Site
    places: tuple[Place, ...]
    lists: Mapping[str, Sequence[nn.Module]] = field(repr=False)
    others: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return sum(map(len, self.lists.values()))

    def module(self, place: int) -> nn.Module:
        """The module of a place."""
        name = self.places[place].name
        blocks = max((known for known in self.lists if name.startswith(f"{known}.")), key=len)
        number, _, inner = name.removeprefix(f"{blocks}.").partition(".")
        return self.lists[blocks][int(number)].get_submodule(inner)

    @cached_property
    def feed_forwards(self) -> Mapping[int, str]:
        """Places that are a feed-forward module: why they cannot be given some tokens alone; empty: they can."""
        reasons: dict[int, str] = {}
        known: dict[str, str] = {}  # of modules built alike
        for index, place in enumerate(self.places):
            if not place.whole and MLP in place.branches:
                module = self.module(index)
                if (kind := repr(module)) not in known:
                    known[kind] = not_token_wise(module)
                reasons[index] = known[kind]
        return reasons

    def shape(self, steps: int) -> tuple[int, int, int]:
        """Of a cache's masks: steps, places, and the tensors that each may give."""
        return steps, len(self.places), OUTPUTS

    def spread(self, mask: Tensor) -> Tensor:
        """A schedule [evaluations, blocks, 2], or [.., 1, 1] at site "stack", as [evaluations, places, OUTPUTS]."""
        if self.site == "stack":
            cells = mask.flatten(1).expand(-1, len(self.places))
        else:
            cells = torch.stack([mask[:, at.block, list(at.branches)].all(dim=1) for at in self.places], dim=1)
        return cells[:, :, None].repeat(1, 1, OUTPUTS)


def layout_of(
    transformer: nn.Module, site: Site = "branch", blocks: Blocks | None = None, branches: Branches | None = None
) -> Layout:
    """The places of a transformer at a site.

    blocks: names of its lists of blocks; None: lists of modules that have attention, those of the transformer itself
    if there are any. branches: {"attn": [...], "mlp": [...]}, names of modules inside of a block; None: by their names
    and classes. A block without a feed-forward module of its own (attention and feed-forward in parallel, as FLUX's
    single blocks) is one place. Raises StructureError.
    """
    all_lists = _all_lists(transformer)
    outermost = {name: members for name, members in all_lists.items() if "." not in name}
    lists = _named_lists(transformer, blocks) if blocks is not None else outermost or all_lists
    others = tuple(name for name in all_lists if name not in lists)
    kind = type(transformer).__name__
    if not lists:
        raise StructureError(
            f"{kind}: no list of blocks with attention was found; name the ModuleLists: blocks=['layers', ...]"
        )
    if branches is not None and (not branches or not set(branches) <= set(BRANCH_NAMES)):
        raise StructureError(f"branches={sorted(branches)}: must be {{'attn': [...], 'mlp': [...]}}")
    places: list[Place] = []
    all_blocks = [(f"{name}.{i}", block) for name, members in lists.items() for i, block in enumerate(members)]
    for number, (name, block) in enumerate(all_blocks):
        whole = Place(name, number, tuple(range(BRANCHES)), True)
        places += [whole] if site == "stack" else _places_in(name, number, block, branches)
    if site == "branch" and branches is not None and all(place.whole for place in places):
        raise StructureError(f"branches={dict(branches)}: no block of {kind} has a module of one of these names")
    return Layout(site, tuple(places), lists, others)


def _places_in(name: str, number: int, block: nn.Module, branches: Branches | None) -> list[Place]:
    """The places in a block: its branches, or the block itself where they run in parallel."""
    if branches is None:
        columns = dict(_branches_in(block))
    else:
        inside = dict(block.named_modules())
        named = {ATTENTION: branches.get("attn", ()), MLP: branches.get("mlp", ())}
        columns = {inner: column for column, names in named.items() for inner in names if inner in inside}
    if not columns or (branches is None and set(columns.values()) != {ATTENTION, MLP}):
        return [Place(name, number, tuple(range(BRANCHES)), True)]
    return [Place(f"{name}.{inner}", number, (column,), False) for inner, column in columns.items()]


def _named_lists(transformer: nn.Module, blocks: Blocks) -> dict[str, list[nn.Module]]:
    modules = dict(transformer.named_modules())
    lists: dict[str, list[nn.Module]] = {}
    for name in [blocks] if isinstance(blocks, str) else blocks:
        module = modules.get(name)
        if not isinstance(module, nn.ModuleList | nn.Sequential) or not len(module):
            known = [key for key, other in modules.items() if isinstance(other, nn.ModuleList) and len(other)]
            raise StructureError(f"blocks={name}: must be of {type(transformer).__name__}'s {', '.join(known)}")
        lists[name] = list(module)
    return lists


def _all_lists(transformer: nn.Module) -> dict[str, list[nn.Module]]:
    """Lists of blocks that have attention, outermost ones only."""
    lists = {
        name: list(module)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and all(map(_has_attention, module))
    }
    return {name: blocks for name, blocks in lists.items() if not any(name.startswith(f"{o}.") for o in lists)}


def _has_attention(block: nn.Module) -> bool:
    return ATTENTION in dict(_branches_in(block)).values()


def _branches_in(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Names of attention and feed-forward modules below a module, outermost ones only, with their mask's column."""
    for name, child in module.named_children():
        kind = type(child).__name__
        if "norm" in name.lower() or "norm" in kind.lower():
            continue
        if "attn" in name.lower() or "attention" in name.lower() or "Attention" in kind:
            yield prefix + name, ATTENTION
        elif FEED_FORWARD.fullmatch(name) or FEED_FORWARD_CLASS.search(kind):
            yield prefix + name, MLP
        else:
            yield from _branches_in(child, f"{prefix}{name}.")


def first_attention(block: nn.Module) -> nn.Module:
    """The attention module of a block that was defined first; the block itself if none is found."""
    return block.get_submodule(next((name for name, column in _branches_in(block) if column == ATTENTION), ""))
