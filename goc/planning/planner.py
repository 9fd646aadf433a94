"""Makes the plan of a way: one planner for denoisers and for pipelines, which differ in what is measured and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from goc.caching.halves import Halves, guided_at, halves
from goc.caching.inflection import correct_at, inflections, span_alignment
from goc.caching.schedule import cache_ratio_of, cached_steps_of, computed_steps_of, computing, is_whole_steps
from goc.config import Way
from goc.methods import Situation
from goc.models.network import BRANCHES, MLP, Site
from goc.planning.plan import Plan
from goc.planning.warnings import report_ratio, warn_of_divergence, warn_of_reuse
from goc.sampling.local_search import Steps
from goc.system.errors import ConfigError

Cells = Sequence[int] | None  # numbers of those that were seen, over places and their outputs; None: all


class Search(NamedTuple):
    """What a schedule asks for: so many `computed` evaluations whose samples end closest to the uncached ones.

    evaluations: schedules that are tried. samples: that each is tried on. how, known: as for
    `goc.sampling.search.searched`.
    """

    computed: int
    evaluations: int
    samples: int
    how: str = "local"
    known: Sequence[Steps] = ()


class Measurements(Protocol):
    """What may be asked of a model without a cache for a way; each is measured when it is asked for."""

    @property
    def steps(self) -> int:
        """Network evaluations, the first axis of a mask."""

    @property
    def depth(self) -> int:
        """Blocks."""

    @property
    def model(self) -> str:
        """Its name in errors; and the sampler's."""

    @property
    def sampler(self) -> str: ...

    @property
    def router(self) -> str | None:
        """Where a router for it is kept, if there is one."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a mask at the way's site: evaluations, places, outputs."""

    def times(self) -> list[float]:
        """What the solver gives the network in each evaluation."""

    def log_snr(self) -> list[float]:
        """A number for each evaluation: the clock logsnr."""

    def noise_to_signal(self) -> list[float]:
        """The scale of the noise over that of the signal, for each evaluation."""

    def spread(self, mask: Tensor) -> Tensor:
        """A schedule's mask at the way's site as a cache's, bool [steps, places, outputs]."""

    def branch_errors(self, lookahead: int) -> Tensor:
        """SmoothCache's calibration, [steps, lookahead, 2]."""

    def input_changes(self) -> Tensor:
        """TeaCache's calibration, [steps]."""

    def magnitude_ratios(self) -> Tensor:
        """MagCache's calibration, [steps]."""

    def products(self) -> tuple[Tensor, Cells]:
        """Inner products of every two steps' features, [steps, steps, places, outputs] or [steps, steps, cells, 1]."""

    def alignment(self) -> tuple[Tensor, Cells]:
        """How well each step's change continues the one before, [steps, places, outputs] or [steps, cells, 1]."""

    def trained_for(self) -> dict[str, Any]:
        """What learned weights must have been trained for, besides their schedule."""

    def search(self, plan_of: Callable[[Steps], Plan], asked: Search) -> Steps:
        """The schedule that is asked for."""


def mask_of(way: Way, situation: Situation) -> Tensor:
    """A way's mask at its site; raises ConfigError for what is none, as another people's schedule may give."""
    mask, shape = way.schedule.mask(situation), (situation.steps, situation.depth, BRANCHES)
    is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == shape
    if not is_mask or mask[0].any():
        given = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ConfigError(
            f"schedule={way.schedule.name}: its mask must be torch.bool {list(shape)} with nothing cached in step 0, "
            f"not {'one that caches there' if is_mask else given}"
        )
    return at_site(way, mask)


def at_site(way: Way, mask: Tensor) -> Tensor:
    """A schedule's mask [evaluations, blocks, 2] at the way's site: as it is, or [.., 1, 1]; raises ConfigError."""
    if way.site != "stack":
        return mask
    if not is_whole_steps(mask):
        raise ConfigError(
            f"site=stack: schedule={way.schedule.name} caches some cells of a step and computes others; "
            "use site=branch, or a schedule of whole steps"
        )
    return mask[:, :1, :1]


def of_cells(values: Tensor, cells: Sequence[int]) -> Tensor:
    """The last two dimensions [places, outputs] reduced to some cells: [..., cells, 1]."""
    return values.flatten(-2)[..., list(cells)].unsqueeze(-1)


@dataclass(frozen=True)
class Planner:
    """Makes plans of one way for any mask, and what a schedule may ask to choose one."""

    way: Way
    measurements: Measurements

    @property
    def clock(self) -> list[float] | None:
        """A number for each evaluation; None = the step index."""
        return self.measurements.log_snr() if self.way.clock == "logsnr" else None

    def situation(self) -> Situation:
        """What a schedule may depend on."""
        way, measured = self.way, self.measurements
        return Situation(
            steps=measured.steps,
            depth=measured.depth,
            cache_ratio=way.cache_ratio or 0.0,
            model=measured.model,
            sampler=measured.sampler,
            router=measured.router,
            branch_errors=measured.branch_errors,
            input_changes=measured.input_changes,
            magnitude_ratios=measured.magnitude_ratios,
            products=lambda: measured.products()[0],
            search=lambda *asked: measured.search(self.computing, Search(*asked)),
            extrapolates=way.predictor.extrapolates,
            clock=self.clock,
        )

    def choose(self) -> tuple[Tensor, float | None]:
        """The way's mask at its site, and the threshold of a schedule that decides as it runs; raises ConfigError."""
        situation = self.situation()
        return mask_of(self.way, situation), self.way.schedule.skip_threshold(situation)

    def correction(self, mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where a mask's predictions are corrected, [steps, places, outputs], and the alignment that says so.

        None: everywhere; none was measured.
        """
        way, cells = self.way, self.measurements.spread(mask)
        if way.correct_steps is not None:
            return correct_at(way.correct_steps, tuple(cells.shape)), None
        if way.inflection_threshold is None:
            return None, None
        by_span = way.inflection_signal == "span"
        measured, seen = self.measurements.products() if by_span else self.measurements.alignment()
        if by_span:
            measured = span_alignment(measured, cells if seen is None else of_cells(cells, seen))
        correct = ~inflections(measured, way.inflection_threshold, way.inflection_scope == "cell")
        if seen is None:
            return correct, measured
        # cells that were not seen are not there: where they were corrected, errors would seem to grow
        everywhere = correct.flatten(1).any(dim=1)[:, None, None].expand(cells.shape).clone()
        everywhere.flatten(1)[:, list(seen)] = correct.squeeze(-1)
        return everywhere, measured

    def plan(self, mask: Tensor, skip_threshold: float | None = None) -> Plan:
        """The way's plan with this mask at its site, bool [evaluations, blocks, 2] or [evaluations, 1, 1]."""
        schedule, predictor, learned, times = self.way.schedule, self.way.predictor, None, None
        if predictor.trained:
            if not is_whole_steps(mask):
                raise ConfigError(
                    f"predictor={predictor.name}: must have a schedule of whole steps, not {schedule.name}"
                )
            learned = predictor.learned(self.measurements, computed_steps_of(mask), len(mask))
            times = learned.times(self.measurements.times())
        correct, alignment = self.correction(mask)
        spread = self.measurements.spread(mask)
        noise = self.measurements.noise_to_signal() if schedule.asks_noise else ()
        skipped = schedule.skipped(len(mask), self.situation)
        plan = Plan(
            self.way, cast(Site, self.way.site), spread, correct, alignment, self.clock, skip_threshold, learned, times,
            noise, skipped=skipped, interval=self.interval(mask),
        )  # fmt: skip
        return replace(plan, halves=self.halves(plan))

    def interval(self, mask: Tensor) -> float:
        """Between computed steps of a mask [evaluations, blocks, 2], for selections; raises ConfigError."""
        if not self.way.selection.selects:
            return 1.0
        if not mask[:, :, MLP].any():
            raise ConfigError(
                f"selection={self.way.selection.name}: must be none where no MLP is cached "
                f"(schedule={self.way.schedule.name})"
            )
        return self.way.schedule.interval_of(self.situation) or 1 / (1 - cache_ratio_of(mask))

    def halves(self, plan: Plan) -> Halves | None:
        """What the way saves of guidance; None: nothing."""
        way, steps = self.way, len(plan.mask)
        if not way.guidance:
            return None
        guided = guided_at(self.measurements.noise_to_signal(), way.guidance_interval)
        whole = set() if plan.adaptive else {*cached_steps_of(plan.mask)}
        cached = [step in whole for step in range(steps)]
        split = halves(guided, cached, way.cfg_cache or 0.0, way.cfg_cache_start)
        return None if split.complete else split

    def computing(self, steps: Steps) -> Plan:
        """The way's plan with the schedule that computes these steps."""
        return self.plan(at_site(self.way, computing(steps, self.measurements.steps, self.measurements.depth)))

    def make(self) -> Plan:
        """The way's plan with the mask of its schedule, and a warning of what cannot go well."""
        mask, skip_threshold = self.choose()
        if skip_threshold is None:
            report_ratio(self.way, mask)
        plan = self.plan(mask, skip_threshold)
        warn_of_divergence(plan)
        warn_of_reuse(plan)
        return plan
