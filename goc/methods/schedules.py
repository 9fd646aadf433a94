"""The options of the group `schedule`: when a feature is reused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from goc.methods.base import SCHEDULES, ScheduleConfig, Situation
from goc.models.plans import OWN_FRONT
from goc.system.errors import ConfigError
from goc.system.files import read_json, resolve
from goc.system.lazy import LazyModule

if TYPE_CHECKING:
    from torch import Tensor

    from goc.caching import decision, dynamic, known, schedule
    from goc.caching.decision import Decision
    from goc.methods import closest
    from goc.models import routers, schedules
else:
    decision = LazyModule("goc.caching.decision")
    dynamic, schedule = LazyModule("goc.caching.dynamic"), LazyModule("goc.caching.schedule")
    known = LazyModule("goc.caching.known")
    closest = LazyModule("goc.methods.closest")
    routers, schedules = LazyModule("goc.models.routers"), LazyModule("goc.models.schedules")

MOST_TRIED = 1_000_000  # schedules in a search, and samples of each


def _check_threshold(option: ScheduleConfig, threshold: float | None) -> None:
    """Raise ConfigError if it is no threshold of an error, a change or a probability."""
    allowed = threshold is None or (math.isfinite(threshold) and threshold >= 0)
    option.require(allowed, "threshold", "a finite number of at least 0, or null")


def _at_threshold(
    rule: Callable[[float], Tensor], threshold: float | None, values: Tensor, situation: Situation
) -> Tensor:
    """The mask at a threshold of what is compared with it; None: at the one that comes closest to the cache ratio."""
    return rule(closest.closest_threshold(rule, values, situation.cache_ratio) if threshold is None else threshold)


@SCHEDULES.register
@dataclass
class NoCaching(ScheduleConfig):
    """Every feature of every step is computed."""

    name: str = "none"

    def follows_ratio(self) -> bool:
        return False

    def caches(self) -> bool:
        return False

    def mask(self, situation: Situation) -> Tensor:
        return schedule.whole_steps([], situation.steps, situation.depth)


@SCHEDULES.register
@dataclass
class Uniform(ScheduleConfig):
    """Whole steps, evenly spread (the GOC paper's rule-based setting)."""

    name: str = "uniform"

    def mask(self, situation: Situation) -> Tensor:
        return schedule.uniform(situation.steps, situation.depth, situation.cache_ratio)


@dataclass
class IntervalSchedule(ScheduleConfig):
    """A schedule with one interval between computed steps; without it, the interval closest to cache_ratio."""

    interval: int | None = None

    def rule(self, steps: int, depth: int, interval: int) -> Tensor:
        """The mask, bool [steps, depth, 2], of an interval."""
        raise NotImplementedError

    def follows_ratio(self) -> bool:
        return self.interval is None

    def check(self, steps: int) -> None:
        self.require(self.interval is None or 1 <= self.interval <= steps, "interval", f"in [1, {steps}]")

    def chosen(self, situation: Situation) -> int:
        """The interval, or the one whose mask comes closest to the cache ratio."""
        steps, depth = situation.steps, situation.depth
        return self.interval or closest.closest_interval(
            lambda interval: self.rule(steps, depth, interval), steps, situation.cache_ratio
        )

    def mask(self, situation: Situation) -> Tensor:
        return self.rule(situation.steps, situation.depth, self.chosen(situation))

    def interval_of(self, situation: Callable[[], Situation]) -> int:
        return self.interval or self.chosen(situation())


@SCHEDULES.register
@dataclass
class Fora(IntervalSchedule):
    """Every interval-th step is computed, counted from the last (FORA)."""

    name: str = "fora"

    def rule(self, steps: int, depth: int, interval: int) -> Tensor:
        return schedule.fora(steps, depth, interval)


@SCHEDULES.register
@dataclass
class TaylorSeer(IntervalSchedule):
    """Two computed steps, then one after every interval - 1 cached ones (TaylorSeer)."""

    name: str = "taylorseer"

    def rule(self, steps: int, depth: int, interval: int) -> Tensor:
        return schedule.taylorseer(steps, depth, interval)


@SCHEDULES.register
@dataclass
class ToCaSchedule(IntervalSchedule):
    """Every cycle-th step is computed, counted from the last, where the cycle goes by the step (ToCa).

    varied: the cycle is 2 in the second fifth from the end, and grows from interval / 1.4 at the end to interval / 0.6;
    false: it is the interval, as in FORA.
    """

    name: str = "toca"
    several_evaluations: ClassVar[bool] = False
    varied: bool = True

    def rule(self, steps: int, depth: int, interval: int) -> Tensor:
        return schedule.toca(steps, depth, interval, self.varied)


@SCHEDULES.register
@dataclass
class DuCaSchedule(ToCaSchedule):
    """ToCa's, where nothing is computed in every second cached step (DuCa). varied: as ToCa's."""

    name: str = "duca"
    only_site: ClassVar[str | None] = "branch"
    keeps_stream: ClassVar[bool] = True

    def skipped(self, steps: int, situation: Callable[[], Situation]) -> Sequence[int]:
        return schedule.duca_skipped(steps, self.interval_of(situation), self.varied)


@SCHEDULES.register
@dataclass
class L2C(ScheduleConfig):
    """The cells that a learned router gives up (Learning-to-Cache).

    router: its checkpoint; null = the model's own for this number of steps (model.routers). threshold: cells of at most
    this probability are cached; null = the one closest to cache_ratio.
    """

    name: str = "l2c"
    several_evaluations: ClassVar[bool] = False
    trained: ClassVar[bool] = True
    correct_scope: ClassVar[str] = "block"  # as the authors' code does
    reads: ClassVar[Mapping[str, str | None]] = {"router": "routers"}
    router: str | None = None
    threshold: float | None = None

    def follows_ratio(self) -> bool:
        return self.threshold is None

    def check(self, steps: int) -> None:
        _check_threshold(self, self.threshold)

    def mask(self, situation: Situation) -> Tensor:
        path = self.router or situation.router
        if path is None or (self.router is None and not resolve(path).is_file()):
            raise ConfigError(
                f"schedule.router=null: there is none for {situation.model} with {situation.sampler} "
                f"steps={situation.steps} ({path or 'model.routers=null'}); train one with "
                f"`goc train router model=... steps={situation.steps}`, get DiT-XL/2's published ones "
                "with `goc fetch l2c-routers`, or name a file"
            )
        probabilities = routers.load_router(resolve(path), situation.steps, situation.depth)
        return _at_threshold(lambda value: schedule.l2c(probabilities, value), self.threshold, probabilities, situation)


@SCHEDULES.register
@dataclass
class SmoothCache(ScheduleConfig):
    """Branches reused where their change was small in a calibration run (SmoothCache).

    path: a published schedule (JSON); null = calibrate. threshold: reuse while the relative error is below; null = the
    one closest to cache_ratio. lookahead: reuse at most this many steps in a row.
    """

    name: str = "smoothcache"
    reads: ClassVar[Mapping[str, str | None]] = {"path": None}
    path: str | None = None
    threshold: float | None = None
    lookahead: int = 3

    def follows_ratio(self) -> bool:
        return self.path is None and self.threshold is None

    def calibrates(self) -> bool:
        return self.path is None

    def check(self, steps: int) -> None:
        _check_threshold(self, self.threshold)
        self.require(self.path is not None or 1 <= self.lookahead < steps, "lookahead", f"in [1, {steps - 1}]")

    def mask(self, situation: Situation) -> Tensor:
        if self.path is not None:
            return self._published(self.path, situation)
        errors = situation.branch_errors(self.lookahead)
        mask = _at_threshold(
            lambda value: schedule.smoothcache_from_errors(errors, value, 1), self.threshold, errors, situation
        )
        return mask.repeat(1, situation.depth, 1)

    @staticmethod
    def _published(path: str, situation: Situation) -> Tensor:
        try:
            mask = schedule.smoothcache(read_json(resolve(path)), situation.depth)
        except (OSError, ValueError) as error:
            raise ConfigError(f"schedule.path={path}: {error}") from error
        if len(mask) != situation.steps:
            raise ConfigError(f"schedule.path={path}: is for {len(mask)} steps, not for steps={situation.steps}")
        return mask


@dataclass
class Deciding(ScheduleConfig):
    """Decides as it runs whether a whole step is skipped, by what the network shows (`goc.caching.decision`).

    decides_for: each sample by itself, or all of a batch at once, as it was before and as public implementations do.
    """

    several_evaluations: ClassVar[bool] = False
    decides: ClassVar[bool] = True
    only_site: ClassVar[str | None] = "stack"
    decides_for: str = "sample"

    @property
    def per_sample(self) -> bool:
        return self.decides_for == "sample"

    def follows_ratio(self) -> bool:
        return False

    def check(self, steps: int) -> None:
        self.require(self.decides_for in ("sample", "batch"), "decides_for", "one of sample, batch")

    def possible(self, steps: int) -> Sequence[int]:
        """The steps that may be skipped: all but the first and the last."""
        return range(1, steps - 1)

    def mask(self, situation: Situation) -> Tensor:
        """Where a step may be skipped."""
        return schedule.whole_steps(self.possible(situation.steps), situation.steps, situation.depth)


@dataclass
class Thresholded(Deciding):
    """Decides by a change. threshold: a larger one skips more."""

    threshold: float | None = None

    def check(self, steps: int) -> None:
        super().check(steps)
        _check_threshold(self, self.threshold)

    def skip_threshold(self, situation: Situation) -> float | None:
        return self.threshold


@dataclass
class LookingAtBlocks(Thresholded):
    """Decides by what the first blocks do. first_blocks: how many are computed in every step."""

    first_blocks: int = 1

    def check(self, steps: int) -> None:
        super().check(steps)
        self.require(self.first_blocks >= 1, "first_blocks", "at least 1")

    def mask(self, situation: Situation) -> Tensor:
        depth = situation.depth
        self.require(self.first_blocks < depth, "first_blocks", f"less than the model's {depth} blocks")
        return super().mask(situation)


@SCHEDULES.register
@dataclass
class TeaCache(Thresholded):
    """A step is skipped while the first block's input has changed little (TeaCache).

    threshold: accumulated relative change up to which steps are skipped; null = the one that comes closest to
    cache_ratio in a calibration run.
    """

    name: str = "teacache"
    only_site: ClassVar[str | None] = None

    def follows_ratio(self) -> bool:
        return self.threshold is None

    def calibrates(self) -> bool:
        return self.threshold is None

    def skip_threshold(self, situation: Situation) -> float:
        if self.threshold is not None:
            return self.threshold
        return closest.closest_teacache(situation.input_changes(), situation.cache_ratio)

    def decision(self, threshold: float, noise: Sequence[float], steps: int) -> Decision:
        return decision.TeaCache(threshold)


@SCHEDULES.register
@dataclass
class FirstBlockCache(LookingAtBlocks):
    """A step is skipped unless what the first blocks add has changed much since the last computed one (FBCache).

    threshold: relative change above which a step is computed. first_blocks: how many are computed in every step.
    """

    name: str = "first_block"
    threshold: float | None = 0.08

    def possible(self, steps: int) -> range:
        """The steps that may be skipped: all but the first."""
        return range(1, steps)

    def decision(self, threshold: float, noise: Sequence[float], steps: int) -> Decision:
        return decision.FirstBlock(threshold, self.first_blocks)


@SCHEDULES.register
@dataclass
class DiCacheSchedule(LookingAtBlocks):
    """A step is skipped while what the first blocks give has changed little (DiCache).

    threshold: accumulated relative change up to which steps are skipped. first_blocks: how many are computed in
    every step. retention: share of the steps, the first ones, that are all computed.
    """

    name: str = "dicache"
    threshold: float | None = 0.4
    retention: float = 0.2

    def check(self, steps: int) -> None:
        super().check(steps)
        self.require(0 <= self.retention < 1, "retention", "in [0, 1)")

    def possible(self, steps: int) -> range:
        """The steps that may be skipped: after the first ones, and before the last."""
        return range(int(self.retention * steps) + 1, steps - 1)

    def decision(self, threshold: float, noise: Sequence[float], steps: int) -> Decision:
        return decision.DiCache(threshold, self.first_blocks)


@SCHEDULES.register
@dataclass
class SeaCacheSchedule(Thresholded):
    """A step is skipped while the network's input, without what is noise in it, has changed little (SeaCache).

    threshold: accumulated relative change up to which steps are skipped. max_skips: at most this many skipped steps in
    a row; 0 = no limit. exponent: of a clean image's power spectrum.
    """

    name: str = "seacache"
    asks_noise: ClassVar[bool] = True
    only_site: ClassVar[str | None] = None
    threshold: float | None = 0.25
    max_skips: int = 2
    exponent: float = 3.0

    def check(self, steps: int) -> None:
        super().check(steps)
        self.require(self.max_skips >= 0, "max_skips", "at least 0")
        self.require(0 < self.exponent < math.inf, "exponent", "a finite number above 0")

    def decision(self, threshold: float, noise: Sequence[float], steps: int) -> Decision:
        return decision.SeaCache(threshold, noise, self.exponent, self.max_skips)


@SCHEDULES.register
@dataclass
class EasyCacheSchedule(Thresholded):
    """The network is skipped while its output is expected to change little with its input (EasyCache).

    threshold: accumulated relative change up to which steps are skipped.
    """

    name: str = "easycache"
    threshold: float | None = 0.05

    def decision(self, threshold: float, noise: Sequence[float], steps: int) -> Decision:
        return decision.EasyCache(threshold)


@SCHEDULES.register
@dataclass
class Verify(Deciding):
    """A step is predicted until the prediction's error, seen at the last block, was too large (SpeCa).

    base_threshold, decay_rate: the largest error in step i of T is base_threshold * decay_rate^((i + 1) / T), at least
    0.01. min_taylor_steps: predicted steps in a row that are not checked. max_taylor_steps: at most this many in a row.
    """

    name: str = "verify"
    only_site: ClassVar[str | None] = "branch"
    verifies: ClassVar[bool] = True
    base_threshold: float = 0.3
    decay_rate: float = 0.05
    min_taylor_steps: int = 3
    max_taylor_steps: int = 8

    def check(self, steps: int) -> None:
        super().check(steps)
        self.require(0 <= self.base_threshold < math.inf, "base_threshold", "a finite number of at least 0")
        self.require(0 <= self.decay_rate <= 1, "decay_rate", "in [0, 1]")
        least = self.min_taylor_steps
        self.require(least >= 1, "min_taylor_steps", "at least 1")
        self.require(self.max_taylor_steps >= least, "max_taylor_steps", f"at least min_taylor_steps={least}")

    def possible(self, steps: int) -> Sequence[int]:
        """The steps that may be skipped: all but the first and the third."""
        return [step for step in range(1, steps) if step != 2]

    def skip_threshold(self, situation: Situation) -> float:
        return self.base_threshold

    def decision(self, threshold: float, noise: Sequence[float], steps: int) -> Decision:
        return decision.Verify(threshold, self.decay_rate, self.min_taylor_steps, self.max_taylor_steps, steps)


@SCHEDULES.register
@dataclass
class MagCache(ScheduleConfig):
    """Steps skipped while what the blocks add kept its magnitude in a calibration run (MagCache).

    threshold: accumulated error of the magnitude up to which steps are skipped; null = the one closest to cache_ratio.
    max_skips: at most this many skipped steps in a row. retention: share of the steps, the first ones, that are all
    computed.
    """

    name: str = "magcache"
    threshold: float | None = None
    max_skips: int = 3
    retention: float = 0.2

    def follows_ratio(self) -> bool:
        return self.threshold is None

    def calibrates(self) -> bool:
        return True

    def check(self, steps: int) -> None:
        _check_threshold(self, self.threshold)
        self.require(self.max_skips >= 1, "max_skips", "at least 1")
        self.require(0 <= self.retention < 1, "retention", "in [0, 1)")

    def mask(self, situation: Situation) -> Tensor:
        def rule(threshold: float) -> Tensor:
            return schedule.magcache(ratios, threshold, self.max_skips, self.retention)

        ratios = situation.magnitude_ratios()
        mask = _at_threshold(rule, self.threshold, schedule.magnitude_errors(ratios), situation)
        return mask.repeat(1, situation.depth, 2)


@dataclass
class FittedSchedule(ScheduleConfig):
    """Whole steps at the cache ratio, chosen for a model; or a file's."""

    reads: ClassVar[Mapping[str, str | None]] = {"path": None}
    fitted: ClassVar[bool] = True
    path: str | None = None

    def computed_steps(self, situation: Situation) -> Sequence[int]:
        """The computed steps at the situation's cache ratio."""
        raise NotImplementedError

    def follows_ratio(self) -> bool:
        return self.path is None

    def calibrates(self) -> bool:
        return self.path is None

    def with_paths(self, fill: Callable[[str], str]) -> ScheduleConfig:
        return self if self.path is None else replace(self, path=fill(self.path))

    def mask(self, situation: Situation) -> Tensor:
        steps, depth = situation.steps, situation.depth
        if self.path is not None:
            return schedule.computing(schedules.read_schedule(self.path, steps), steps, depth)
        if situation.computed < 2:
            raise ConfigError(
                f"cache_ratio={situation.cache_ratio:g}: leaves schedule={self.name} one computed step of {steps}, "
                f"where there is nothing to choose; must be at most {(steps - 2) / steps:g}"
            )
        return schedule.computing(self.computed_steps(situation), steps, depth)


@SCHEDULES.register
@dataclass
class Searched(FittedSchedule):
    """The whole steps whose samples end closest to the uncached ones, by local search on calibration seeds.

    path: a schedule's JSON that takes the place of a search. search_evaluations: schedules that are tried.
    search_samples: samples that each is tried on.
    """

    name: str = "searched"
    reads: ClassVar[Mapping[str, str | None]] = {"path": "schedules"}
    search_evaluations: int = 120
    search_samples: int = 96

    def check(self, steps: int) -> None:
        for key in ("search_evaluations", "search_samples"):
            self.require(1 <= getattr(self, key) <= MOST_TRIED, key, f"at least 1 and at most {MOST_TRIED}")

    def searched_samples(self) -> int:
        return self.search_samples if self.calibrates() else 0

    def of_weights(self, path: str) -> ScheduleConfig:
        return type(self)(path=self.path or path)

    def computed_steps(self, situation: Situation) -> Sequence[int]:
        return situation.search(situation.computed, self.search_evaluations, self.search_samples)


@SCHEDULES.register
@dataclass
class BudCache(Searched):
    """The whole steps whose samples end closest to the uncached ones, by annealing and hill climbing (BudCache).

    path: a schedule's JSON that takes the place of a search. search_evaluations: schedules that are tried.
    search_samples: samples that each is tried on.
    """

    name: str = "budcache"
    reads: ClassVar[Mapping[str, str | None]] = {"path": None}

    def computed_steps(self, situation: Situation) -> Sequence[int]:
        return situation.search(situation.computed, self.search_evaluations, self.search_samples, "annealing")


@SCHEDULES.register
@dataclass
class Halving(Searched):
    """The whole steps whose samples end closest to the uncached ones, searched from known schedules with a surrogate.

    path: a schedule's JSON that takes the place of a search. search_evaluations, search_samples: it measures at most as
    many samples in all as trying so many schedules on so many samples would.
    """

    name: str = "halving"
    reads: ClassVar[Mapping[str, str | None]] = {"path": None}
    also_calibrates: ClassVar[bool] = True
    against_clock: ClassVar[bool] = True

    def computed_steps(self, situation: Situation) -> Sequence[int]:
        begun = known_schedules(situation)
        return situation.search(situation.computed, self.search_evaluations, self.search_samples, "halving", begun)


@SCHEDULES.register
@dataclass
class Front(FittedSchedule):
    """The whole steps of a front, found with weights for several cache ratios at once: those closest to cache_ratio.

    path: its JSON; null: what goc train front writes; where that is not there, the model's own (model.fronts).
    """

    name: str = "front"
    trained: ClassVar[bool] = True

    def follows_ratio(self) -> bool:
        return True

    def calibrates(self) -> bool:
        return False

    def with_shipped(self, fill: Callable[[str], str], fronts: str | None) -> ScheduleConfig:
        shipped = self.path is None and fronts is not None and not Path(fill(OWN_FRONT)).exists()
        return replace(self, path=fronts) if shipped else self

    def with_paths(self, fill: Callable[[str], str]) -> ScheduleConfig:
        return replace(self, path=fill(self.path or OWN_FRONT))

    @property
    def weights_file(self) -> str | None:
        return self.path

    def mask(self, situation: Situation) -> Tensor:
        steps, depth, path = situation.steps, situation.depth, self.path
        assert path is not None  # a normalised config names it
        front = schedules.read_front(path, steps)
        count = min(front, key=lambda count: (abs(count - situation.computed), count))
        return schedule.computing(front[count]["computed"], steps, depth)


def known_schedules(situation: Situation) -> list[tuple[int, ...]]:
    """Schedules of whole steps at the situation's cache ratio that are known without trying any, each once."""
    steps, count = situation.steps, situation.computed
    programmed = known.by_programming(situation.products(), count, situation.clock)
    return [*dict.fromkeys([*known.by_rule(steps, count).values(), *programmed.values()])]


@SCHEDULES.register
@dataclass
class Dynamic(FittedSchedule):
    """The whole steps with the smallest sum of calibrated feature errors, by dynamic programming (as CEM).

    path: a schedule's JSON that takes its place.
    """

    name: str = "dynamic"
    against_clock: ClassVar[bool] = True

    def computed_steps(self, situation: Situation) -> Sequence[int]:
        errors = dynamic.extrapolation_errors(situation.products(), int(situation.extrapolates), situation.clock)
        return dynamic.dynamic_programming(errors, situation.computed)


@SCHEDULES.register
@dataclass
class DPCache(Dynamic):
    """The whole steps on the cheapest path of calibrated feature errors, by dynamic programming (DPCache).

    path: a schedule's JSON that takes its place. first_steps: so many first ones are all computed.
    """

    name: str = "dpcache"
    first_steps: int = 3

    def check(self, steps: int) -> None:
        self.require(1 <= self.first_steps <= steps, "first_steps", f"in [1, {steps}]")

    def computed_steps(self, situation: Situation) -> Sequence[int]:
        allowed = f"at most {situation.computed}, the steps that cache_ratio={situation.cache_ratio:g} leaves computed"
        self.require(self.first_steps <= situation.computed, "first_steps", allowed)
        order = 2 if situation.extrapolates else 0
        errors = dynamic.extrapolation_errors(situation.products(), order, situation.clock, scaled=False)
        return dynamic.dynamic_programming(errors, situation.computed, self.first_steps)
