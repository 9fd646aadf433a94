"""The choices a method is made of, as typed settings: a schedule (when) and a predictor (what stands in).

Each class is an option of the Hydra group of the same name; `goc/caching` holds what it means. That is loaded only
when a mask or a predictor is made, since it needs torch, and settings do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from goc.caching.ratio import computed_at
from goc.system.errors import ConfigError
from goc.system.files import read_json, resolve
from goc.system.lazy import LazyModule
from goc.system.precision import QUEUE_DTYPES

if TYPE_CHECKING:
    from torch import Tensor

    from goc import closest
    from goc.caching import anchored, dynamic, expansion, predictor, schedule
    from goc.models import routers, schedules
else:
    predictor, schedule = LazyModule("goc.caching.predictor"), LazyModule("goc.caching.schedule")
    anchored, expansion = LazyModule("goc.caching.anchored"), LazyModule("goc.caching.expansion")
    dynamic = LazyModule("goc.caching.dynamic")
    closest = LazyModule("goc.closest")
    routers, schedules = LazyModule("goc.models.routers"), LazyModule("goc.models.schedules")

AGAINST_DIVERGENCE = (
    "try method=goc_anchored (predictor.gradients=computed), smaller gradient_weights, a higher inflection_threshold, "
    "predictor=taylor, or a lower cache_ratio"
)
MOST_TRIED = 1_000_000  # schedules in a search, and samples of each
GRADIENTS = ("used", "computed")


@dataclass(frozen=True)
class Situation:
    """What a schedule may depend on besides its own settings.

    steps: network evaluations, the first axis of a mask; one a step, but two with some solvers.
    """

    steps: int
    depth: int
    cache_ratio: float  # the target, in [0, 1)
    model: str  # its name
    sampler: str
    router: str | None  # where its router for this number of steps is kept
    branch_errors: Callable[[int], Tensor]  # lookahead -> SmoothCache's calibration, [steps, lookahead, 2]
    input_changes: Callable[[], Tensor]  # TeaCache's calibration, [steps]
    magnitude_ratios: Callable[[], Tensor]  # MagCache's calibration, [steps]
    products: Callable[[], Tensor]  # inner products of every two steps' features, [steps, steps, blocks, 2]
    search: Callable[[int, int, int], tuple[int, ...]]  # (computed, evaluations, samples) -> computed steps
    extrapolates: bool  # whether the predictor does more than reuse
    clock: Sequence[float] | None

    @property
    def computed(self) -> int:
        """How many evaluations whole steps at the cache ratio leave."""
        return computed_at(self.cache_ratio, self.steps)


@dataclass
class ScheduleConfig:
    """When a feature is reused."""

    name: str = "none"
    takes_several_evaluations: ClassVar[bool] = True  # whether it means something where a solver has two a step
    # settings that name a file it is read from -> the model's setting that stands in for one that is null, if any does
    reads: ClassVar[Mapping[str, str | None]] = {}

    def follows_ratio(self) -> bool:
        """Whether cache_ratio decides the mask; otherwise the schedule's own settings do."""
        return True

    def calibrates(self) -> bool:
        """Whether the schedule comes from a calibration run."""
        return False

    def check(self, steps: int) -> None:
        """Raise ConfigError on a setting that cannot be run with so many steps."""

    def mask(self, situation: Situation) -> Tensor:
        """The mask, bool [steps, depth, 2]: the closest to the cache ratio if it follows it; raises ConfigError."""
        raise NotImplementedError

    def skip_threshold(self, situation: Situation) -> float | None:
        """Accumulated change below which steps are skipped, if that is decided as it runs; `mask` is where it may be.

        None: the mask is what is cached.
        """
        return None


def _check_threshold(threshold: float | None) -> None:
    """Raise ConfigError if it is no threshold of an error, a change or a probability."""
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise ConfigError(f"schedule.threshold={threshold}: must be a finite number of at least 0, or null")


@dataclass
class NoCaching(ScheduleConfig):
    """Every feature of every step is computed."""

    name: str = "none"

    def follows_ratio(self) -> bool:
        return False

    def mask(self, situation: Situation) -> Tensor:
        return schedule.whole_steps([], situation.steps, situation.depth)


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
        if self.interval is not None and not 1 <= self.interval <= steps:
            raise ConfigError(f"schedule.interval={self.interval}: must be in [1, {steps}]")

    def mask(self, situation: Situation) -> Tensor:
        steps = situation.steps
        interval = self.interval or closest.closest_interval(
            lambda interval: self.rule(steps, 1, interval), steps, situation.cache_ratio
        )
        return self.rule(steps, situation.depth, interval)


@dataclass
class Fora(IntervalSchedule):
    """Every interval-th step is computed, counted from the last (FORA)."""

    name: str = "fora"

    def rule(self, steps: int, depth: int, interval: int) -> Tensor:
        return schedule.fora(steps, depth, interval)


@dataclass
class TaylorSeer(IntervalSchedule):
    """Two computed steps, then one after every interval - 1 cached ones (TaylorSeer)."""

    name: str = "taylorseer"

    def rule(self, steps: int, depth: int, interval: int) -> Tensor:
        return schedule.taylorseer(steps, depth, interval)


@dataclass
class L2C(ScheduleConfig):
    """The cells that a learned router gives up (Learning-to-Cache).

    router: its checkpoint; null = the model's own for this number of steps (model.routers). threshold: cells of at most
    this probability are cached; null = the one closest to cache_ratio.
    """

    name: str = "l2c"
    takes_several_evaluations: ClassVar[bool] = False
    reads: ClassVar[Mapping[str, str | None]] = {"router": "routers"}
    router: str | None = None
    threshold: float | None = None

    def follows_ratio(self) -> bool:
        return self.threshold is None

    def check(self, steps: int) -> None:
        _check_threshold(self.threshold)

    def mask(self, situation: Situation) -> Tensor:
        from goc.caching import schedule

        path = self.router or situation.router
        if path is None or (self.router is None and not resolve(path).is_file()):
            raise ConfigError(
                f"schedule.router=null: there is none for {situation.model} with {situation.sampler} "
                f"steps={situation.steps} ({path or 'model.routers=null'}); train one with "
                f"`goc train router model=... steps={situation.steps}`, get DiT-XL/2's published ones "
                "with `goc fetch l2c-routers`, or name a file"
            )
        probabilities = routers.load_router(resolve(path), situation.steps, situation.depth)
        threshold = self.threshold
        if threshold is None:
            threshold = closest.closest_threshold(
                lambda value: schedule.l2c(probabilities, value), probabilities, situation.cache_ratio
            )
        return schedule.l2c(probabilities, threshold)


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
        _check_threshold(self.threshold)
        if self.path is None and not 1 <= self.lookahead < steps:
            raise ConfigError(f"schedule.lookahead={self.lookahead}: must be in [1, {steps - 1}]")

    def mask(self, situation: Situation) -> Tensor:
        if self.path is not None:
            return self._published(self.path, situation)
        errors, depth = situation.branch_errors(self.lookahead), situation.depth
        threshold = self.threshold
        if threshold is None:
            threshold = closest.closest_threshold(
                lambda value: schedule.smoothcache_from_errors(errors, value, 1), errors, situation.cache_ratio
            )
        return schedule.smoothcache_from_errors(errors, threshold, depth)

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
class TeaCache(ScheduleConfig):
    """Decides as it runs: a step is skipped while the first block's input has changed little (TeaCache).

    threshold: accumulated relative change up to which steps are skipped; null = the one that comes closest to
    cache_ratio in a calibration run.
    """

    name: str = "teacache"
    takes_several_evaluations: ClassVar[bool] = False
    threshold: float | None = None

    def follows_ratio(self) -> bool:
        return self.threshold is None

    def calibrates(self) -> bool:
        return self.threshold is None

    def check(self, steps: int) -> None:
        _check_threshold(self.threshold)

    def mask(self, situation: Situation) -> Tensor:
        """Where a step may be skipped: all but the first and the last."""
        return schedule.whole_steps(range(1, situation.steps - 1), situation.steps, situation.depth)

    def skip_threshold(self, situation: Situation) -> float:
        if self.threshold is not None:
            return self.threshold
        return closest.closest_teacache(situation.input_changes(), situation.cache_ratio)


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
        _check_threshold(self.threshold)
        if self.max_skips < 1:
            raise ConfigError(f"schedule.max_skips={self.max_skips}: must be at least 1")
        if not 0 <= self.retention < 1:
            raise ConfigError(f"schedule.retention={self.retention}: must be in [0, 1)")

    def mask(self, situation: Situation) -> Tensor:
        def rule(threshold: float) -> Tensor:
            return schedule.magcache(ratios, threshold, self.max_skips, self.retention)

        ratios, threshold = situation.magnitude_ratios(), self.threshold
        if threshold is None:
            threshold = closest.closest_threshold(rule, schedule.magnitude_errors(ratios), situation.cache_ratio)
        return rule(threshold).repeat(1, situation.depth, 2)


@dataclass
class FoundSchedule(ScheduleConfig):
    """Whole steps at the cache ratio, found for a model; or a file's."""

    reads: ClassVar[Mapping[str, str | None]] = {"path": None}
    path: str | None = None

    def find(self, situation: Situation) -> Sequence[int]:
        """The computed steps at the situation's cache ratio."""
        raise NotImplementedError

    def follows_ratio(self) -> bool:
        return self.path is None

    def calibrates(self) -> bool:
        return self.path is None

    def mask(self, situation: Situation) -> Tensor:
        steps, depth = situation.steps, situation.depth
        if self.path is not None:
            return schedule.computing(schedules.read_schedule(self.path, steps), steps, depth)
        if situation.computed < 2:
            raise ConfigError(
                f"cache_ratio={situation.cache_ratio:g}: leaves schedule={self.name} one computed step of {steps}, "
                f"where there is nothing to choose; must be at most {(steps - 2) / steps:g}"
            )
        return schedule.computing(self.find(situation), steps, depth)


@dataclass
class Searched(FoundSchedule):
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
            if not 1 <= getattr(self, key) <= MOST_TRIED:
                raise ConfigError(f"schedule.{key}={getattr(self, key)}: must be at least 1 and at most {MOST_TRIED}")

    def find(self, situation: Situation) -> Sequence[int]:
        return situation.search(situation.computed, self.search_evaluations, self.search_samples)


@dataclass
class Dynamic(FoundSchedule):
    """The whole steps with the smallest sum of calibrated feature errors, by dynamic programming (as CEM).

    path: a schedule's JSON that takes its place.
    """

    name: str = "dynamic"

    def find(self, situation: Situation) -> Sequence[int]:
        errors = dynamic.extrapolation_errors(situation.products(), int(situation.extrapolates), situation.clock)
        return dynamic.dynamic_programming(errors, situation.computed)


@dataclass
class PredictorConfig:
    """What stands in for a cached feature."""

    name: str = "reuse"
    reads: ClassVar[Mapping[str, str | None]] = {}  # as a schedule's

    @property
    def extrapolates(self) -> bool:
        """Whether a stand-in is more than a reused feature."""
        return True

    @property
    def divergence_hint(self) -> str:
        """What to try when values stop being finite."""
        return ""

    def check(self) -> None:
        """Raise ConfigError on a setting that cannot be run."""

    def build(
        self, mask: Tensor, weights: Sequence[float], correct: Tensor | None, clock: Sequence[float] | None
    ) -> predictor.Predictor:
        """A predictor with empty state for one batch.

        mask and correct are bool [steps, blocks, 2] (correct None = everywhere); clock None = the step index.
        """
        raise NotImplementedError


@dataclass
class ReuseConfig(PredictorConfig):
    """The last computed feature, unchanged."""

    name: str = "reuse"

    @property
    def extrapolates(self) -> bool:
        return False

    def build(
        self, mask: Tensor, weights: Sequence[float], correct: Tensor | None, clock: Sequence[float] | None
    ) -> predictor.Predictor:
        return predictor.Reuse(mask)


@dataclass
class GradientQueueConfig(PredictorConfig):
    """The last feature plus weighted past changes (Gradient-Optimized Cache).

    gradients: used = between the values used in the last steps, predictions among them (published); computed = between
    computed features alone, which does not diverge. correct_scope: branch = correct wherever a branch is cached;
    block = only where both branches of its block are, as the authors' code does on learned routers. null: block on
    schedule=l2c, else branch. dtype: what the queue keeps its values in: fp32, bf16 or fp16. null: what the denoiser
    gives (precision).
    """

    name: str = "gradient_queue"
    gradients: str = "used"
    correct_scope: str | None = None
    dtype: str | None = None

    @property
    def anchored(self) -> bool:
        """Whether gradients are taken between computed features."""
        return self.gradients == "computed"

    @property
    def divergence_hint(self) -> str:
        return "" if self.anchored else f"; the gradient queue diverged: {AGAINST_DIVERGENCE}"

    def check(self) -> None:
        if self.gradients not in GRADIENTS:
            raise ConfigError(f"predictor.gradients={self.gradients}: must be one of {', '.join(GRADIENTS)}")
        if self.dtype is not None and self.dtype not in QUEUE_DTYPES:
            raise ConfigError(f"predictor.dtype={self.dtype}: must be one of {', '.join(QUEUE_DTYPES)}, or null")
        if self.correct_scope not in ("branch", "block"):
            raise ConfigError(f"predictor.correct_scope={self.correct_scope}: must be one of branch, block")

    def build(
        self, mask: Tensor, weights: Sequence[float], correct: Tensor | None, clock: Sequence[float] | None
    ) -> predictor.Predictor:
        import torch

        dtype = None if self.dtype is None else getattr(torch, QUEUE_DTYPES[self.dtype])
        queue = anchored.AnchoredQueue if self.anchored else predictor.GradientQueue
        return queue(mask, weights, self.corrected(mask, correct), clock, dtype)

    def corrected(self, mask: Tensor, correct: Tensor | None) -> Tensor:
        """Where the correction is on, bool [steps, blocks, 2]."""
        within = mask if self.correct_scope == "branch" else mask.all(dim=2, keepdim=True).expand(mask.shape)
        return within if correct is None else within & correct


@dataclass
class TaylorConfig(PredictorConfig):
    """Taylor expansion of the computed features (TaylorSeer). order: its highest derivative."""

    name: str = "taylor"
    order: int = 2

    @property
    def extrapolates(self) -> bool:
        return self.order > 0

    def check(self) -> None:
        if self.order < 0:
            raise ConfigError(f"predictor.order={self.order}: must be at least 0")

    def build(
        self, mask: Tensor, weights: Sequence[float], correct: Tensor | None, clock: Sequence[float] | None
    ) -> predictor.Predictor:
        return expansion.Taylor(mask, self.order, clock)


@dataclass
class HiCacheConfig(TaylorConfig):
    """Taylor's differences in scaled Hermite polynomials (HiCache). order: the highest; sigma: their contraction."""

    name: str = "hicache"
    sigma: float = 0.5

    def check(self) -> None:
        super().check()
        if not 0 < self.sigma < 1:
            raise ConfigError(f"predictor.sigma={self.sigma}: must be in (0, 1)")

    def build(
        self, mask: Tensor, weights: Sequence[float], correct: Tensor | None, clock: Sequence[float] | None
    ) -> predictor.Predictor:
        return expansion.HiCache(mask, self.order, self.sigma, clock)


@dataclass
class FoCaConfig(PredictorConfig):
    """The mean of a computed and of a predicted slope (FoCa).

    divided: slopes are divided by the time between their values, as in the paper; false = not, as in cache-dit 1.5.3,
    whose clock is the step index.
    """

    name: str = "foca"
    divided: bool = True

    def build(
        self, mask: Tensor, weights: Sequence[float], correct: Tensor | None, clock: Sequence[float] | None
    ) -> predictor.Predictor:
        return expansion.FoCa(mask, clock, self.divided)


@dataclass
class LearnedConfig(PredictorConfig):
    """Weights on the last computed features, trained for the schedule by goc train weights.

    path: their JSON; null: the model's own (model.weights), or what the script writes.
    """

    name: str = "learned"
    reads: ClassVar[Mapping[str, str | None]] = {"path": None}  # a normalised config names the model's own
    path: str | None = None

    def weights(self, trained_for: Mapping[str, Any], computed: Sequence[int], steps: int) -> Tensor:
        """The trained weights, float32 [steps, K], for what they must have been trained for; raises ConfigError."""
        assert self.path is not None  # a normalised config names it
        return schedules.read_weights(self.path, trained_for, tuple(computed), steps)


SCHEDULES: dict[str, type[ScheduleConfig]] = {
    cls().name: cls
    for cls in (NoCaching, Uniform, Fora, TaylorSeer, L2C, SmoothCache, TeaCache, MagCache, Searched, Dynamic)
}
FOUND_SCHEDULES = tuple(name for name, cls in SCHEDULES.items() if issubclass(cls, FoundSchedule))
PREDICTORS: dict[str, type[PredictorConfig]] = {
    cls().name: cls
    for cls in (ReuseConfig, GradientQueueConfig, TaylorConfig, HiCacheConfig, FoCaConfig, LearnedConfig)
}
