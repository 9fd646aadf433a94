"""The options of the group `selection`: which tokens of a cached cell are computed after all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from goc.methods.base import SELECTIONS, Partial, SelectionConfig
from goc.system.lazy import LazyModule

if TYPE_CHECKING:
    from torch import Tensor

    from goc.caching import selection
else:
    selection = LazyModule("goc.caching.selection")


def _check(option: SelectionConfig, key: str, least: float, most: float) -> None:
    """Raise ConfigError for a number that is not in [least, most], or is none."""
    option.require(least <= getattr(option, key) <= most, key, f"in [{least:g}, {most:g}]")


@dataclass
class ShareConfig(SelectionConfig):
    """A share of the tokens. ratio, by_block, by_step: as ToCa's."""

    implementation: ClassVar[str] = ""  # of goc.caching.selection
    ratio: float = 0.07
    by_block: float = -0.2
    by_step: float = 2.0

    def check(self) -> None:
        self.require(0 < self.ratio <= 1, "ratio", "in (0, 1]; selection=none computes no token")
        _check(self, "by_block", -1, 1)
        _check(self, "by_step", -2, 2)

    def share(self, partial: Partial) -> Tensor:
        """The share of tokens by step and block, float32 [evaluations, blocks]."""
        steps, depth, _ = partial.mask.shape
        return selection.shares(self.ratio, self.by_block, self.by_step, steps, depth)

    def build(self, partial: Partial) -> selection.Selection:
        of_shares: Callable[..., selection.Selection] = getattr(selection, self.implementation)
        return of_shares(partial.mask, self.share(partial), skipped=partial.skipped)


@SELECTIONS.register
@dataclass
class ToCaSelection(ShareConfig):
    """Tokens that others attend to, that were not computed for long, and that are the best around (ToCa).

    ratio: the published fresh ratio, of which an MLP's tokens get 2.5 times, and attention's none; by_block, by_step:
    how it falls with depth and with the step. age_weight: of a token's age in intervals. bonus: factor of the best
    score in each 2x2 patch.
    """

    name: str = "toca"
    age_weight: float = 0.25
    bonus: float = 1.6

    def check(self) -> None:
        super().check()
        _check(self, "age_weight", 0, 1000)
        _check(self, "bonus", 1, 1000)

    def build(self, partial: Partial) -> selection.Selection:
        return selection.ToCa(
            partial.mask, self.share(partial), self.age_weight, partial.interval, self.bonus, partial.skipped
        )


@SELECTIONS.register
@dataclass
class DuCaSelection(ToCaSelection):
    """ToCa's, with the bonus that DuCa's authors have."""

    name: str = "duca"
    bonus: float = 1.8


@SELECTIONS.register
@dataclass
class RandomSelection(ShareConfig):
    """Any tokens, drawn anew in each step and block. ratio, by_block, by_step: as ToCa's."""

    name: str = "random"
    implementation: ClassVar[str] = "Random"


@SELECTIONS.register
@dataclass
class NormSelection(ShareConfig):
    """The tokens whose held features are the longest. ratio, by_block, by_step: as ToCa's."""

    name: str = "norm"
    implementation: ClassVar[str] = "Norm"


@SELECTIONS.register
@dataclass
class ClusterSelection(SelectionConfig):
    """A token of each cluster, which speaks for the others of it (ClusCa).

    clusters: how many. propagation: how far what is held goes to the computed token of its cluster, in [0, 1].
    """

    name: str = "cluster"
    clusters: int = 16
    propagation: float = 0.007

    def check(self) -> None:
        self.require(self.clusters >= 1, "clusters", "at least 1")
        _check(self, "propagation", 0, 1)

    def check_tokens(self, tokens: int) -> None:
        self.require(self.clusters <= tokens, "clusters", f"at most the model's {tokens} tokens")

    def build(self, partial: Partial) -> selection.Selection:
        return selection.Clusters(partial.mask, self.clusters, self.propagation, partial.skipped)
