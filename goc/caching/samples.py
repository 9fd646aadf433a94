"""A cache that decides as it runs for each sample of a batch: a sample is what it is, whatever is beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from goc.caching.cache import AdaptiveCache, Decided, StepCache
from goc.caching.predictor import Predictor, evaluate
from goc.models.network import Terms
from goc.models.packed import with_rows
from goc.models.seen import Looked, Seen


def for_batch(new_cache: Callable[[], StepCache], samples: int) -> StepCache:
    """A cache with empty state for a batch of so many samples, which decides for each if its rule is for samples."""
    cache = new_cache()
    if not isinstance(cache, AdaptiveCache) or not (cache.per_sample or cache.decision.of_network):
        return cache
    return SampleCaches(cache, samples if cache.per_sample else 1)


@dataclass
class Group:
    """Samples that one predictor stands in for, as what it holds of them goes on alike; in ascending order."""

    samples: list[int]
    computed: tuple[int, ...]  # the steps that they computed
    predictor: Predictor

    @property
    def alike(self) -> object:
        """Equal for groups that may be one."""
        state = self.predictor.state()
        return self.computed if state is None else state

    def some(self, samples: list[int]) -> "Group":
        """Of some of its samples, in ascending order."""
        if samples == self.samples:
            return self
        at = [self.samples.index(sample) for sample in samples]
        held = [
            with_rows([value], lambda rows: of_samples(rows[0], len(self.samples), at))
            for value in self.predictor.held()
        ]
        return Group(samples, self.computed, self.predictor.holding(held))

    @classmethod
    def joined(cls, groups: Sequence["Group"]) -> "Group":
        """One of all samples of groups that are alike."""
        first, *others = groups
        if not others:
            return first
        held = zip(*(group.predictor.held() for group in groups), strict=True)
        samples = [sample for group in groups for sample in group.samples]
        together = [with_rows(values, lambda rows: side_by_side(rows, groups)) for values in held]
        return cls(sorted(samples), first.computed, first.predictor.holding(together))


def of_samples(x: Tensor, samples: int, at: Sequence[int]) -> Tensor:
    """The rows of some of so many samples, in x [N, ...] of all; as the denoiser has rows (`goc.models.seen.Seen`)."""
    return x.unflatten(0, (-1, samples))[:, list(at)].flatten(0, 1)


def side_by_side(tensors: Sequence[Tensor], groups: Sequence[Group]) -> Tensor:
    """Tensors [N, ...] of each group as one, of all their samples in ascending order."""
    if len(tensors) == 1:
        return tensors[0]
    pairs = zip(tensors, groups, strict=True)
    x = torch.cat([tensor.unflatten(0, (-1, len(group.samples))) for tensor, group in pairs], dim=1)
    samples = [sample for group in groups for sample in group.samples]
    return x[:, sorted(range(len(samples)), key=samples.__getitem__)].flatten(0, 1)


class SampleCaches(Decided):
    """Decides for each sample of a batch; its rows in the denoiser (two with guidance) are treated alike.

    Args:
        fresh: a cache with empty state: its rule, its predictor, and where steps may be skipped.
        samples: how many there are. Rows are all samples, and then, with guidance, all again; one is of all rows.
    """

    def __init__(self, fresh: AdaptiveCache, samples: int) -> None:
        super().__init__(fresh.site)
        self.decision, self.possible, self.samples = fresh.decision, fresh.possible, samples
        self.mask = fresh.mask.new_zeros(samples, *fresh.mask.shape)  # what was skipped of each
        self.groups = [Group(list(range(samples)), (), fresh.predictor)]
        self.skipped, self.checking = [False] * samples, [False] * samples  # in this step

    @property
    def of_network(self) -> bool:
        """Whether the whole network is skipped."""
        return self.decision.of_network

    @property
    def looked(self) -> list[Looked]:
        """What was computed only to be looked at, of each sample."""
        return [self.decision.looked(sample) for sample in range(self.samples)]

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        alike = dict[object, list[Group]]()
        for group in self.groups:
            alike.setdefault(group.alike, []).append(group)
        self.groups = [Group.joined(groups) for groups in alike.values()]
        held = [(len(group.samples), tensor) for group in self.groups for tensor in group.predictor.held()]
        self.peak_cache_tensors = max(self.peak_cache_tensors, sum(count for count, _ in held) // self.samples)
        self.peak_cache_bytes = max(self.peak_cache_bytes, sum(tensor.nbytes for _, tensor in held))

    def rows(self, samples: Sequence[int], rows: int) -> list[int]:
        """The rows of some samples, among so many."""
        return [first + sample for first in range(0, rows, self.samples) for sample in samples]

    def decide(self, seen: Seen) -> None:
        seen = replace(seen, samples=self.samples)
        self.skipped = [allowed and self.possible[self.step] for allowed in self.decision.allows(self.step, seen)]
        self.decision.done(self.skipped)
        self.checking = [skip and self.decision.checks(i) for i, skip in enumerate(self.skipped)]
        self.mask[torch.tensor(self.skipped), self.step] = True
        self.groups = [part for group in self.groups for part in self.parted(group)]
        for group in self.groups:
            rows = self.rows(group.samples, len(seen.latents))
            alone = len(group.samples) == self.samples
            group.predictor.see(self.step, seen if alone else seen.of(rows, len(group.samples)))

    def parted(self, group: Group) -> list[Group]:
        """A group's samples by what is done with them in this step."""
        kinds = dict[tuple[bool, bool], list[int]]()
        for sample in group.samples:
            kinds.setdefault((self.skipped[sample], self.checking[sample]), []).append(sample)
        parts = [(skips, group.some(samples)) for (skips, _), samples in kinds.items()]
        return [part if skips else replace(part, computed=(*part.computed, self.step)) for skips, part in parts]

    def parts(self, rows: int) -> list[tuple[list[int], StepCache]]:
        kinds = dict[tuple[bool, bool], list[Group]]()
        for group in self.groups:
            first = group.samples[0]
            kinds.setdefault((self.skipped[first], self.checking[first]), []).append(group)
        parts = [Part(self, groups, *kind) for kind, groups in sorted(kinds.items(), key=lambda item: item[0])]
        return [(self.rows(part.samples, rows), part) for part in parts]

    def network(self, x: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The network's output for its input x [N, C, ...], computed for the rows that need it.

        What it adds to its input is kept; of more channels than the input's (a variance), the values themselves.
        """
        seen, channels = Seen(x, x, x, lambda: x, self.samples), x.shape[1]
        self.decide(seen)
        output: Tensor | None = None
        for rows, part in self.parts(len(x)):
            terms = part.lookup(0, 0)
            if terms is None:
                values = compute(rows)
                added = values.clone()
                added[:, :channels] -= x[rows]
                part.store(0, 0, added)
            else:
                values = evaluate(terms).clone()
                values[:, :channels] += x[rows]
            output = values.new_empty(len(x), *values.shape[1:]) if output is None else output
            output[rows] = values
        assert output is not None
        if not all(self.skipped):
            self.decision.computed(seen, output[:, :channels])
        return output


class Part(Decided):
    """The cache of samples that all skip this step, or all compute it, for their rows."""

    def __init__(self, whole: SampleCaches, groups: Sequence[Group], skips: bool, checks: bool) -> None:
        super().__init__(whole.site)
        self.decision = whole.decision
        self.step, self.groups, self.skips, self.checking = whole.step, groups, skips, checks
        self.samples = sorted(sample for group in groups for sample in group.samples)

    @property
    def checks(self) -> bool:
        return self.checking

    def check(self, predicted: Tensor, computed: Tensor) -> None:
        self.decision.checked(self.samples, predicted, computed)

    def lookup(self, block: int, branch: int) -> Terms | None:
        if not self.skips:
            return None
        predictions = [group.predictor.predict(self.step, (block, branch)) for group in self.groups]
        if len(predictions) == 1:
            return predictions[0]
        return [(1.0, side_by_side([evaluate(terms) for terms in predictions], self.groups))]

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        for group in self.groups:
            at = [self.samples.index(sample) for sample in group.samples]
            features = feature if len(self.groups) == 1 else of_samples(feature, len(self.samples), at)
            group.predictor.store(self.step, (block, branch), features)
