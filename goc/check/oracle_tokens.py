"""What oracles of token-wise and verified caching say besides a trajectory: which blocks and tokens were computed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from goc.caching import schedule
from goc.caching.cache import AdaptiveCache, ScheduledCache, StepCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import Reuse
from goc.caching.samples import SampleCaches
from goc.caching.selection import Clusters, Scored, Selection, ToCa, k_means, shares
from goc.methods.schedules import Verify
from goc.models.network import MLP, Terms

RATIOS = {"ToCa-ddim50": (-0.2, 2.0), "ToCa": (-0.2, 2.0), "ToCa-ddpm250": (0.8, 0.4)}  # by block and by step
BY_TOKENS, VERIFIED = ("toca", "duca", "clusca"), "speca"
BONUS = {"toca": 1.6, "duca": 1.8}
WHOLE, PARTLY, PREDICTED, SKIPPED = range(4)
TIE = 1e-5  # between two tokens' scores


class FromFile(Clusters):
    """ClusCa with clusters [steps, 2n, tokens] and tokens [steps, blocks, 2n, clusters] of a file.

    others: steps whose clusters are not what k-means makes of the last ones, where none of these was without a token.
    """

    def __init__(self, mask: Tensor, propagation: float, clusters: Tensor, tokens: Tensor) -> None:
        super().__init__(mask, tokens.shape[-1], propagation)
        self.of_clusters, self.of_cells, self.others = clusters.long(), tokens.long(), list[int]()
        self.full = torch.zeros(0, dtype=torch.bool)  # rows whose last clusters all had tokens

    def finished(self, h: Tensor) -> None:
        if not self.clustered[self.step]:
            return
        self.labels = self.of_clusters[self.step]
        if self.centroids is not None:
            labels, _ = k_means(h, self.centroids, self.ITERATIONS)
            if not torch.equal(labels[self.full], self.labels[self.full]):
                self.others.append(self.step)
        belongs = F.one_hot(self.labels, self.clusters).to(h.dtype).transpose(1, 2)
        sizes = belongs.sum(dim=-1, keepdim=True)
        self.centroids, self.full = belongs @ h / sizes.clamp(min=1), (sizes > 0).flatten(1).all(dim=1)

    def choose(self, block: int, count: int, held: Tensor) -> Tensor:
        return self.of_cells[self.step, block]


class Watched(ScheduledCache):
    """A cache that keeps what was done: the kind of each block, and differences to a file's tokens but for ties."""

    def __init__(self, *args: Any, tokens: Tensor, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.kinds = torch.full(self.mask.shape[:2], PREDICTED, dtype=torch.uint8)
        self.tokens, self.others = tokens.long(), list[tuple[int, int]]()

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        super().store(block, branch, feature)
        self.kinds[self.step, block] = WHOLE

    def lookup(self, block: int, branch: int) -> Terms | None:
        terms = super().lookup(block, branch)
        if terms is not None:
            self.kinds[self.step, block] = SKIPPED if self.step in self.skipped else PARTLY
        return terms

    def selected(self, block: int, branch: int) -> Tensor | None:
        selection, scores = self.selection, None
        asked = branch == MLP and selection is not None and selection.asked[self.step][block]
        if isinstance(selection, Scored) and branch == MLP and selection.possible[self.step, block]:
            scores = selection.scores(block, self.predictor.newest((block, branch)))
        tokens = super().selected(block, branch)
        if asked and not self._same(tokens, self.tokens[self.step, block], scores):
            self.others.append((self.step, block))
        return tokens

    @staticmethod
    def _same(tokens: Tensor | None, expected: Tensor, scores: Tensor | None) -> bool:
        """Whether these are the tokens [2n, count] of a file [2n, width], -1 = none, but for ties by score."""
        for row, there in enumerate(expected):
            chosen, wanted = set([] if tokens is None else tokens[row].tolist()), set(there[there >= 0].tolist())
            if len(chosen) != len(wanted):
                return False
            if scores is not None and chosen != wanted:
                exchanged = scores[row, sorted(chosen ^ wanted)]
                if exchanged.max() - exchanged.min() > TIE:
                    return False
        return True


def verify_of(case: dict[str, Any]) -> Verify:
    """The project's settings that must do as a case of SpeCa says."""
    names = ("base_threshold", "decay_rate", "min_taylor_steps", "max_taylor_steps")
    return Verify(**{name: case["kwargs"][name] for name in names})


def verified(case: dict[str, Any], mask: Tensor) -> list[AdaptiveCache | SampleCaches]:
    """The project's caches that must do as a case of SpeCa says: for its batch of one, and for its sample."""
    rule, steps = verify_of(case), len(mask)

    def new_cache() -> AdaptiveCache:
        decision = rule.decision(rule.base_threshold, (), steps)
        return AdaptiveCache(mask, Taylor(mask, case["kwargs"]["max_order"]), decision)

    return [new_cache(), SampleCaches(new_cache(), 1)]


def mask_of(case: dict[str, Any], depth: int) -> Tensor:
    """The schedule of a case, bool [steps, depth, 2]."""
    if case["method"] == VERIFIED:
        return schedule.whole_steps(verify_of(case).possible(case["steps"]), case["steps"], depth)
    settings = case["kwargs"]
    if case["method"] == "clusca":
        return schedule.taylorseer(case["steps"], depth, settings["interval"])
    return schedule.toca(case["steps"], depth, settings["fresh_threshold"], settings["fresh_ratio"] > 0)


def cache_of(case: dict[str, Any], data: dict[str, Tensor], mask: Tensor) -> Watched:
    """The project's cache that must do as a case says."""
    settings, (steps, depth, _), tokens = case["kwargs"], mask.shape, data["fresh_indices"]
    if case["method"] == "clusca":
        selection: Selection = FromFile(mask, settings["propagation_ratio"], data["clusters"], tokens)
        return Watched(mask, Taylor(mask, settings["max_order"]), selection=selection, tokens=tokens)
    interval, ratio, skipped = settings["fresh_threshold"], settings["fresh_ratio"], list[int]()
    if case["method"] == "duca":
        skipped = schedule.duca_skipped(steps, interval, ratio > 0)
    share = shares(ratio, *RATIOS[settings["ratio_scheduler"]], steps, depth)
    bonus = BONUS[case["method"]]
    selection = ToCa(mask, share, settings["soft_fresh_weight"], interval, bonus, skipped)
    return Watched(mask, Reuse(mask), selection=selection, skipped=skipped, tokens=tokens)


def kinds_of(cache: StepCache | None) -> Tensor | None:
    """The kind of each block, uint8 [steps, blocks], if the cache knows."""
    if isinstance(cache, AdaptiveCache | SampleCaches):
        predicted = cache.mask.view(-1, *cache.mask.shape[-3:])[0].all(-1)
        return torch.where(predicted, PREDICTED, WHOLE).to(torch.uint8)
    return cache.kinds if isinstance(cache, Watched) else None


def disagreement(cache: StepCache | None, data: dict[str, Tensor]) -> str:
    """What a cache did that its case does not say, in a few words; empty: nothing."""
    kinds = kinds_of(cache)
    if kinds is None:
        return ""
    expected = data["block_kinds"].cpu()
    if not torch.equal(kinds, expected):
        step, block = torch.nonzero(kinds != expected)[0].tolist()
        return f"block {block} of step {step} is of kind {kinds[step, block]}, not {expected[step, block]}"
    if not isinstance(cache, Watched):
        return ""
    if isinstance(cache.selection, FromFile) and cache.selection.others:
        return f"other clusters in step {cache.selection.others[0]}"
    return f"other tokens in step {cache.others[0][0]}, block {cache.others[0][1]}" if cache.others else ""
