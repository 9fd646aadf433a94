"""The choices a method is made of, as typed settings: a schedule (when) and a predictor (what stands in).

Each class is an option of the Hydra group of the same name; `goc/caching` holds what it means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from goc.caching import schedule
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.errors import ConfigError


@dataclass
class ScheduleConfig:
    """When a feature is reused."""

    name: str = "none"

    def follows_ratio(self) -> bool:
        """Whether cache_ratio decides the mask; otherwise the schedule's own settings do."""
        return True

    def mask(self, steps: int, depth: int, cache_ratio: float) -> Tensor:
        """The mask, bool [steps, depth, 2], that comes closest to cache_ratio in [0, 1); raises ConfigError."""
        raise NotImplementedError


@dataclass
class NoCaching(ScheduleConfig):
    """Every feature of every step is computed."""

    name: str = "none"

    def follows_ratio(self) -> bool:
        return False

    def mask(self, steps: int, depth: int, cache_ratio: float) -> Tensor:
        return schedule.whole_steps([], steps, depth)


@dataclass
class Uniform(ScheduleConfig):
    """Whole steps, evenly spread (the GOC paper's rule-based setting)."""

    name: str = "uniform"

    def mask(self, steps: int, depth: int, cache_ratio: float) -> Tensor:
        return schedule.uniform(steps, depth, cache_ratio)


@dataclass
class Fora(ScheduleConfig):
    """Every interval-th step is computed (FORA); without an interval, the one closest to cache_ratio."""

    name: str = "fora"
    interval: int | None = None

    def follows_ratio(self) -> bool:
        return self.interval is None

    def mask(self, steps: int, depth: int, cache_ratio: float) -> Tensor:
        if self.interval is not None and not 1 <= self.interval <= steps:
            raise ConfigError(f"schedule.interval={self.interval}: must be in [1, {steps}]")
        interval = self.interval or schedule.closest_interval(lambda n: schedule.fora(steps, 1, n), steps, cache_ratio)
        return schedule.fora(steps, depth, interval)


@dataclass
class PredictorConfig:
    """What stands in for a cached feature."""

    name: str = "reuse"
    divergence_hint: ClassVar[str] = ""  # what to try when values stop being finite

    def build(self, mask: Tensor, gradient_weights: Sequence[float], correct: Tensor | None) -> Predictor:
        """A predictor with empty state for one batch; correct is bool [steps, blocks, 2], None = everywhere."""
        raise NotImplementedError


@dataclass
class ReuseConfig(PredictorConfig):
    """The last computed feature, unchanged."""

    name: str = "reuse"

    def build(self, mask: Tensor, gradient_weights: Sequence[float], correct: Tensor | None) -> Predictor:
        return Reuse(mask)


@dataclass
class GradientQueueConfig(PredictorConfig):
    """The last feature plus weighted past changes (Gradient-Optimized Cache)."""

    name: str = "gradient_queue"
    divergence_hint: ClassVar[str] = (
        "; the gradient queue diverged: try smaller gradient_weights, a higher inflection_threshold, "
        "or a lower cache_ratio"
    )

    def build(self, mask: Tensor, gradient_weights: Sequence[float], correct: Tensor | None) -> Predictor:
        return GradientQueue(mask, gradient_weights, correct)


# names of the combinations in conf/method, for tables
PUBLISHED = {
    ("none", "reuse"): "none",
    ("uniform", "reuse"): "reuse",
    ("fora", "reuse"): "fora",
    ("uniform", "gradient_queue"): "goc",
}

SCHEDULES: dict[str, type[ScheduleConfig]] = {cls().name: cls for cls in (NoCaching, Uniform, Fora)}
PREDICTORS: dict[str, type[PredictorConfig]] = {cls().name: cls for cls in (ReuseConfig, GradientQueueConfig)}
