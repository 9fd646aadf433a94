"""What a method is made of, as typed settings: a schedule (when), a predictor (what stands in), a selection (tokens).

Each settings class is an option of the Hydra group of the same name, and says what it needs. What it means is in
goc/caching, which is loaded only when a mask or a predictor is made, since it needs torch, and settings do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from goc.caching.ratio import computed_at
from goc.system.errors import ConfigError
from goc.system.lazy import LazyModule
from goc.system.registry import Options, load_object

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from goc.caching.decision import Decision
    from goc.caching.predictor import Predictor
    from goc.caching.selection import Selection
    from goc.models.schedules import Trained
else:
    torch = LazyModule("torch")


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
    search: Callable[..., tuple[int, ...]]  # (computed, evaluations, samples, how="local") -> computed steps
    extrapolates: bool  # whether the predictor does more than reuse
    clock: Sequence[float] | None

    @property
    def computed(self) -> int:
        """How many evaluations whole steps at the cache ratio leave."""
        return computed_at(self.cache_ratio, self.steps)


class Option:
    """Settings of one option of a group."""

    group: ClassVar[str]

    def require(self, condition: bool, key: str, allowed: str) -> None:
        """Raise ConfigError unless a condition holds: the setting with its value, and what is allowed."""
        if not condition:
            raise ConfigError(f"{self.group}.{key}={getattr(self, key)}: must be {allowed}")


@dataclass
class ScheduleConfig(Option):
    """When a feature is reused.

    several_evaluations: whether it means something where a solver has two a step. reads: settings that name a file it
    is read from, and the model's setting that stands in for one that is null, if any does. trained: whether it is
    trained for a model. fitted: whether it is a choice of whole steps that fits a model, and is left as a file.
    also_calibrates: whether a search begins with what the calibration samples say, too.
    against_clock: whether it counts in the clock. correct_scope: where the gradient queue corrects on it unless
    predictor.correct_scope says so. decides: whether it decides as it runs; only_site: the site that it is for alone;
    asks_noise: whether by how noisy a step is; verifies: whether by the last block, computed beside its prediction.
    keeps_stream: whether in some steps the stream of the step before stands in for all blocks.
    """

    group: ClassVar[str] = "schedule"
    name: str = "none"
    several_evaluations: ClassVar[bool] = True
    reads: ClassVar[Mapping[str, str | None]] = {}
    trained: ClassVar[bool] = False
    fitted: ClassVar[bool] = False
    found: ClassVar[bool] = False  # `fitted`, as plugins of an older version call it
    also_calibrates: ClassVar[bool] = False
    against_clock: ClassVar[bool] = False
    correct_scope: ClassVar[str] = "branch"
    decides: ClassVar[bool] = False
    only_site: ClassVar[str | None] = None
    asks_noise: ClassVar[bool] = False
    verifies: ClassVar[bool] = False
    keeps_stream: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.fitted = cls.found = vars(cls).get("found", cls.fitted)

    @property
    def per_sample(self) -> bool:
        """Whether samples of a batch have caches of their own."""
        return False

    def follows_ratio(self) -> bool:
        """Whether cache_ratio decides the mask; otherwise the schedule's own settings do."""
        return True

    def caches(self) -> bool:
        """Whether there can be anything in its mask."""
        return True

    def calibrates(self) -> bool:
        """Whether the schedule comes from a calibration run."""
        return False

    def searched_samples(self) -> int:
        """Of how many samples of the calibration's seed a search looks at; 0: there is none."""
        return 0

    def check(self, steps: int) -> None:
        """Raise ConfigError on a setting that cannot be run with so many steps."""

    def mask(self, situation: Situation) -> Tensor:
        """The mask, bool [steps, depth, 2]: the closest to the cache ratio if it follows it; raises ConfigError."""
        raise NotImplementedError

    def skipped(self, steps: int, situation: Callable[[], Situation]) -> Sequence[int]:
        """Cached steps in which what came out of the last block in the step before stands in for all blocks."""
        return ()

    def interval_of(self, situation: Callable[[], Situation]) -> int | None:
        """The interval between computed steps, if the schedule goes by one."""
        return None

    def with_shipped(self, fill: Callable[[str], str], fronts: str | None) -> ScheduleConfig:
        """The same with the model's front, where that is to be taken; fill: as for `with_paths`."""
        return self

    def with_paths(self, fill: Callable[[str], str]) -> ScheduleConfig:
        """The same with its files' paths as `fill` makes them of ones with {model}, {steps}, ... in them."""
        return self

    @property
    def weights_file(self) -> str | None:
        """A file of its own that has the weights for predictor=learned, too; None: it has none."""
        return None

    def of_weights(self, path: str) -> ScheduleConfig:
        """The schedule beside weights that were trained for one, which their file names."""
        return self

    def decision(self, threshold: float, noise: Sequence[float], steps: int) -> Decision:
        """The rule of a schedule that decides as it runs; noise: over the signal, in each of the steps, if it asks."""
        raise NotImplementedError

    def skip_threshold(self, situation: Situation) -> float | None:
        """Accumulated change below which steps are skipped, if that is decided as it runs; `mask` is where it may be.

        None: the mask is what is cached.
        """
        return None


class Learning(Protocol):
    """What learned weights come from."""

    def trained_for(self) -> dict[str, Any]:
        """What they must have been trained for, besides their schedule."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a mask: evaluations, blocks, branches."""

    def products(self) -> tuple[Tensor, Any]:
        """Inner products of every two steps' features, [steps, steps, places, outputs], and which cells these are."""


@dataclass(frozen=True)
class Cells:
    """What a predictor is built for.

    mask: the cached cells, bool [evaluations, blocks, 2]. correct: where predictions are corrected, None = everywhere.
    clock: a number for each evaluation; None = the step index. gradient_weights: of a gradient queue. learned: trained
    or fitted weights, float [evaluations, K], or of each cell [evaluations, blocks, 2, K].
    """

    mask: Tensor
    correct: Tensor | None = None
    clock: Sequence[float] | None = None
    gradient_weights: Sequence[float] = ()
    learned: Tensor | None = None


@dataclass
class PredictorConfig(Option):
    """What stands in for a cached feature.

    implementation: `module:class` of the `goc.caching.predictor.Predictor`, which is given the mask, and by their names
    the clock and the settings. reads: as a schedule's. trained: whether its weights are learned for a model and a
    schedule of whole steps; calibrates: in the calibration run. queue: whether it has the gradient queue's settings:
    gradient_weights, correct_steps and inflection_*. default_weights: its gradient_weights where they are null.
    needs_probe: whether the schedule must be one that computes the first blocks in every step. takes_tokens: whether
    some tokens of what it holds can be replaced, as a selection does.
    """

    group: ClassVar[str] = "predictor"
    name: str = "reuse"
    implementation: ClassVar[str] = ""
    reads: ClassVar[Mapping[str, str | None]] = {}
    trained: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False
    queue: ClassVar[bool] = False
    default_weights: ClassVar[tuple[float, ...]] = ()
    needs_probe: ClassVar[bool] = False
    takes_tokens: ClassVar[bool] = False

    @property
    def extrapolates(self) -> bool:
        """Whether a stand-in is more than a reused feature."""
        return True

    @property
    def against_clock(self) -> bool:
        """Whether changes are taken against the clock."""
        return True

    @property
    def anchored(self) -> bool:
        """Whether it is a gradient queue whose gradients are taken between computed features alone."""
        return False

    @property
    def divergence_hint(self) -> str:
        """What to try when values stop being finite."""
        return ""

    def settled(self, gradient_weights: Sequence[float], schedule: ScheduleConfig) -> PredictorConfig:
        """What it comes to with these gradient weights, on a schedule: equal runs have equal settings."""
        return self

    def with_paths(self, fill: Callable[[str], str], weights: str) -> PredictorConfig:
        """As a schedule's; weights: where the model's lie, for one whose path is null."""
        return self

    @property
    def schedule_file(self) -> str | None:
        """A file of its own that names the schedule it was trained for; None: it has none."""
        return None

    def check(self) -> None:
        """Raise ConfigError on a setting that cannot be run."""

    def build(self, cells: Cells) -> Predictor:
        """A predictor with empty state for one batch."""
        return load_object(self.implementation)(cells.mask, clock=cells.clock, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """What its implementation is given by name, beside the mask and the clock."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    def settings(self) -> dict[str, Any]:
        """Its settings as plain values, by which runs and searches are told apart."""
        return asdict(self)

    @property
    def scaled(self) -> bool:
        """Whether what it holds is in a format with a scale, so that no tokens of it can be replaced."""
        return False

    def corrected(self, cells: Cells) -> Tensor:
        """Cells whose stand-in is more than a reused feature, bool as the mask."""
        return cells.mask if self.extrapolates else torch.zeros_like(cells.mask)

    def amplification(self, cells: Cells) -> float | None:
        """How much it may amplify its own errors; None: that is not known of it."""
        return None

    def learned(self, learning: Learning, computed: Sequence[int], steps: int) -> Trained:
        """What was learned for a schedule's computed steps of so many; raises ConfigError."""
        raise NotImplementedError


@dataclass(frozen=True)
class Partial:
    """What a selection is built for.

    mask: the cached cells, bool [evaluations, blocks, 2]. skipped: steps of it in which no token is computed. interval:
    between computed steps, the schedule's, or their mean distance.
    """

    mask: Tensor
    skipped: Sequence[int] = ()
    interval: float = 1.0


@dataclass
class SelectionConfig(Option):
    """Which tokens of a cached MLP are computed after all: none, where the option is this very class."""

    group: ClassVar[str] = "selection"
    name: str = "none"

    @property
    def selects(self) -> bool:
        """Whether any are."""
        return type(self) is not SelectionConfig

    def check(self) -> None:
        """Raise ConfigError on a setting that cannot be run."""

    def check_tokens(self, tokens: int) -> None:
        """Raise ConfigError on a setting that cannot be run on a model of so many tokens."""

    def build(self, partial: Partial) -> Selection | None:
        """A selection with empty state for one batch; None: there is none."""
        return None


def into_blocks(schedule: ScheduleConfig | type[ScheduleConfig]) -> str:
    """Why a method cannot be in a pipeline of diffusers, into whose blocks it goes; empty: it does not."""
    if schedule.keeps_stream:
        return f"schedule={schedule.name}: not supported in a pipeline, whose stream is not kept"
    if schedule.verifies:
        return f"schedule={schedule.name}: not supported in a pipeline, which computes no block twice"
    return ""


SCHEDULES: Options[ScheduleConfig] = Options("schedule")
PREDICTORS: Options[PredictorConfig] = Options("predictor")
SELECTIONS: Options[SelectionConfig] = Options("selection")
SELECTIONS.register(SelectionConfig)
