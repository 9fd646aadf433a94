"""The options of the group `predictor`: what stands in for a cached feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from goc.methods.base import PREDICTORS, Cells, Learning, PredictorConfig, ScheduleConfig
from goc.system.lazy import LazyModule
from goc.system.precision import HELD_DTYPES, SCALED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from goc.caching import anchored, predictor, probe, stability
    from goc.models import schedules
else:
    torch = LazyModule("torch")
    anchored, predictor = LazyModule("goc.caching.anchored"), LazyModule("goc.caching.predictor")
    probe = LazyModule("goc.caching.probe")
    stability = LazyModule("goc.caching.stability")
    schedules = LazyModule("goc.models.schedules")

AGAINST_DIVERGENCE = (
    "try method=goc_anchored (predictor.gradients=computed), smaller gradient_weights, a higher inflection_threshold, "
    "predictor=taylor, or a lower cache_ratio"
)
GRADIENTS = ("used", "computed")
RHOS = ("chebyshev", "lagrange")
CORRECT_SCOPES = ("branch", "block")


@dataclass
class HoldingConfig(PredictorConfig):
    """A predictor that can keep its values in another format than they come in.

    dtype: fp32, bf16, fp16, or fp8 (e4m3fn, with a scale for each sample). null: what the denoiser gives (precision).
    """

    dtype: str | None = None

    @property
    def scaled(self) -> bool:
        return self.dtype in SCALED

    @property
    def held_in(self) -> torch.dtype | None:
        """The format by torch; None: as values come."""
        return None if self.dtype is None else getattr(torch, HELD_DTYPES[self.dtype])

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in super().settings().items() if key != "dtype" or value is not None}

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "dtype": self.held_in}

    def check(self) -> None:
        self.require(self.dtype in (None, *HELD_DTYPES), "dtype", f"one of {', '.join(HELD_DTYPES)}, or null")


@PREDICTORS.register
@dataclass
class ReuseConfig(HoldingConfig):
    """The last computed feature, unchanged. dtype: what it is kept in."""

    name: str = "reuse"
    takes_tokens: ClassVar[bool] = True

    @property
    def extrapolates(self) -> bool:
        return False

    @property
    def against_clock(self) -> bool:
        return False

    def settled(self, gradient_weights: Sequence[float], schedule: ScheduleConfig) -> PredictorConfig:
        return GradientQueueConfig(dtype=self.dtype).settled(gradient_weights, schedule) if gradient_weights else self

    def build(self, cells: Cells) -> predictor.Predictor:
        return predictor.Reuse(cells.mask, self.held_in)


@PREDICTORS.register
@dataclass
class GradientQueueConfig(HoldingConfig):
    """The last feature plus weighted past changes (Gradient-Optimized Cache).

    gradients: used = between the values used in the last steps, predictions among them (published); computed = between
    computed features alone, which does not diverge. correct_scope: branch = correct wherever a branch is cached;
    block = only where both branches of its block are, as the authors' code does on learned routers. null: block on
    schedule=l2c, else branch. dtype: what the queue keeps its values in.
    """

    name: str = "gradient_queue"
    queue: ClassVar[bool] = True
    default_weights: ClassVar[tuple[float, ...]] = (1.0,)
    gradients: str = "used"
    correct_scope: str | None = None

    @property
    def anchored(self) -> bool:
        return self.gradients == "computed"

    @property
    def divergence_hint(self) -> str:
        return "" if self.anchored else f"; the gradient queue diverged: {AGAINST_DIVERGENCE}"

    def settled(self, gradient_weights: Sequence[float], schedule: ScheduleConfig) -> PredictorConfig:
        if not gradient_weights:
            return ReuseConfig(dtype=self.dtype)
        return self if self.correct_scope is not None else replace(self, correct_scope=schedule.correct_scope)

    def settings(self) -> dict[str, Any]:
        return asdict(self)  # it always had a dtype

    def check(self) -> None:
        super().check()
        self.require(self.gradients in GRADIENTS, "gradients", f"one of {', '.join(GRADIENTS)}")
        self.require(self.correct_scope in CORRECT_SCOPES, "correct_scope", f"one of {', '.join(CORRECT_SCOPES)}")

    def build(self, cells: Cells) -> predictor.Predictor:
        queue = anchored.AnchoredQueue if self.anchored else predictor.GradientQueue
        return queue(cells.mask, cells.gradient_weights, self.corrected(cells), cells.clock, self.held_in)

    def corrected(self, cells: Cells) -> Tensor:
        mask = cells.mask
        within = mask if self.correct_scope == "branch" else mask.all(dim=2, keepdim=True).expand(mask.shape)
        return within if cells.correct is None else within & cells.correct

    def amplification(self, cells: Cells) -> float:
        if self.anchored:
            return 1.0  # of one computed value to the next: no prediction enters the queue
        return stability.amplification(cells.mask, cells.gradient_weights, self.corrected(cells), cells.clock)


@PREDICTORS.register
@dataclass
class TaylorConfig(HoldingConfig):
    """Taylor expansion of the computed features (TaylorSeer). order: its highest derivative; dtype: of differences."""

    name: str = "taylor"
    implementation: ClassVar[str] = "goc.caching.expansion:Taylor"
    takes_tokens: ClassVar[bool] = True
    order: int = 2

    @property
    def extrapolates(self) -> bool:
        return self.order > 0

    def check(self) -> None:
        super().check()
        self.require(self.order >= 0, "order", "at least 0")


@PREDICTORS.register
@dataclass
class HiCacheConfig(TaylorConfig):
    """Taylor's differences in scaled Hermite polynomials (HiCache). order: the highest; sigma: their contraction."""

    name: str = "hicache"
    implementation: ClassVar[str] = "goc.caching.expansion:HiCache"
    sigma: float = 0.5

    def check(self) -> None:
        super().check()
        self.require(0 < self.sigma < 1, "sigma", "in (0, 1)")


@PREDICTORS.register
@dataclass
class FoCaConfig(PredictorConfig):
    """The mean of a computed and of a predicted slope (FoCa).

    divided: slopes are divided by the time between their values, as in the paper; false = not, as in cache-dit 1.5.3,
    whose clock is the step index.
    """

    name: str = "foca"
    implementation: ClassVar[str] = "goc.caching.expansion:FoCa"
    divided: bool = True

    @property
    def against_clock(self) -> bool:
        return self.divided


@PREDICTORS.register
@dataclass
class BarycentricConfig(PredictorConfig):
    """Barycentric extrapolation through the last computed features (ChebBooster, BaryCache).

    length: how many of them. rho: chebyshev = alternating weights, half of them at both ends, wherever the computed
    steps are (published); lagrange = the polynomial through the features. decay: exponent of the weights' magnitudes,
    in (0, 1]; BaryCache has 0.95 for three features and 0.75 for four.
    """

    name: str = "barycentric"
    implementation: ClassVar[str] = "goc.caching.anchored:Barycentric"
    length: int = 3
    rho: str = "chebyshev"
    decay: float = 1.0

    @property
    def extrapolates(self) -> bool:
        return self.length > 1

    @property
    def divergence_hint(self) -> str:
        return "" if self.rho == "lagrange" else "; barycentric weights may have a pole there: try predictor.length=2"

    def check(self) -> None:
        self.require(self.length >= 1, "length", "at least 1")
        self.require(self.rho in RHOS, "rho", f"one of {', '.join(RHOS)}")
        self.require(0 < self.decay <= 1, "decay", "in (0, 1]")


@PREDICTORS.register
@dataclass
class LearnedConfig(PredictorConfig):
    """Weights on the last computed features, trained for the schedule by goc train weights.

    path: their JSON; null: the model's own (model.weights), or what the script writes.
    """

    name: str = "learned"
    reads: ClassVar[Mapping[str, str | None]] = {"path": None}  # a normalised config names the model's own
    trained: ClassVar[bool] = True
    path: str | None = None

    def with_paths(self, fill: Callable[[str], str], weights: str) -> PredictorConfig:
        return replace(self, path=fill(self.path or weights))

    @property
    def schedule_file(self) -> str | None:
        return self.path

    def build(self, cells: Cells) -> predictor.Predictor:
        assert cells.learned is not None  # a plan has them
        return anchored.Learned(cells.mask, cells.learned)

    def learned(self, learning: Learning, computed: Sequence[int], steps: int) -> schedules.Trained:
        assert self.path is not None  # a normalised config names it
        cells = learning.shape[1:]
        return schedules.read_weights(self.path, learning.trained_for(), tuple(computed), steps, cells)


@PREDICTORS.register
@dataclass
class L2PConfig(PredictorConfig):
    """Weights on all values before, fitted to the features of a calibration run (L2P)."""

    name: str = "l2p"
    trained: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True

    @property
    def against_clock(self) -> bool:
        return False

    def build(self, cells: Cells) -> predictor.Predictor:
        assert cells.learned is not None  # a plan has them
        return anchored.Causal(cells.mask, cells.learned)

    def learned(self, learning: Learning, computed: Sequence[int], steps: int) -> schedules.Trained:
        return schedules.Trained(anchored.fit_causal(learning.products()[0]))


@PREDICTORS.register
@dataclass
class ProbeAlignedConfig(PredictorConfig):
    """The last two residuals, extrapolated as far as the first blocks' went on (DiCache); for schedule=dicache."""

    name: str = "probe_aligned"
    needs_probe: ClassVar[bool] = True

    @property
    def against_clock(self) -> bool:
        return False

    def build(self, cells: Cells) -> predictor.Predictor:
        return probe.ProbeAligned(cells.mask)
