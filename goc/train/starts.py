"""What weights are trained from: a linear predictor as weights on the last computed features of a cell."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from goc.caching.anchored import Barycentric, Learned
from goc.caching.cache import ScheduledCache
from goc.caching.expansion import HiCache, Taylor
from goc.caching.predictor import Predictor
from goc.caching.stability import linear_weights
from goc.models.schedules import Trained
from goc.planning.plan import Plan
from goc.sampling.calibrate import Calibration
from goc.sampling.search import final_latents, mean_distance
from goc.system.errors import ConfigError

LENGTH = 3  # computed features that a prediction may use
NONE: Mapping[str, Trained] = {}


class Start(NamedTuple):
    """What a training may start from, of several with names of their own the closest the smallest.

    distance: the mean relative one of its samples to their targets.
    """

    distance: float
    name: str
    trained: Trained


def start(plan: Plan, length: int) -> Tensor:
    """What the plan's predictor does with the last `length` computed features of a cell, float32 [evaluations, length].

    All cells are the first one, which they are where whole steps are cached and corrected.
    """
    if plan.way.selection.selects:
        raise ConfigError(f"selection={plan.way.selection.name}: must be none where weights are trained")
    cell = replace(plan, mask=plan.mask[:, :1, :1], correct=None if plan.correct is None else plan.correct[:, :1, :1])
    weights = as_weights(cell.new_predictor(), cell.mask.flatten().tolist(), length)
    if weights is None:
        raise ConfigError(
            f"predictor={plan.way.predictor.name}: must be one that uses the last {length} computed features "
            "alone: taylor with predictor.order=2, or gradient_queue with predictor.gradients=computed"
        )
    return weights


def as_weights(predictor: Predictor, cached: list[bool], length: int) -> Tensor | None:
    """A linear predictor of one cell as weights, float32 [evaluations, length]; None: it uses more features.

    predictor: made for the mask [evaluations, 1, 1] of the steps that are cached.
    """
    rows = linear_weights(predictor, cached)
    weights, computed = torch.zeros(len(rows), length), list[int]()
    for step, is_cached in enumerate(cached):
        if not is_cached:
            computed = [step, *computed][:length]
        else:
            weights[step, : len(computed)] = rows[step, computed].float()
            if rows[step].abs().sum() > rows[step, computed].abs().sum() + 1e-9:
                return None
    return weights


def linear_predictors(mask: Tensor, log_snr: list[float]) -> Iterator[tuple[str, Predictor]]:
    """Known predictors of a cell that use at most LENGTH computed features, for its mask [evaluations, 1, 1].

    log_snr: of each evaluation, the other clock.
    """
    for clock, name in ((None, ""), (log_snr, "_logsnr")):
        for order in range(LENGTH):
            if order or clock is None:
                yield f"taylor{order}{name}", Taylor(mask, order, clock)
        yield f"lagrange{name}", Barycentric(mask, LENGTH, "lagrange", clock=clock)
    yield "hicache2", HiCache(mask, LENGTH - 1, 0.5)


def best_start(
    plan: Plan, calibration: Calibration, targets: Tensor, log_snr: list[float], others: Mapping[str, Trained] = NONE
) -> Start:
    """The known linear predictor whose samples end closest to their targets [n, C, H, W], as weights.

    Of the calibration's first samples, on the plan's schedule of whole steps. others: more to choose from.
    """
    cell = plan.mask[:, :1, :1]
    candidates = dict(others)
    for name, predictor in linear_predictors(cell, log_snr):
        weights = as_weights(predictor, cell.flatten().tolist(), LENGTH)
        if weights is not None and torch.isfinite(weights).all():
            candidates[name] = Trained(weights)
    seen = range(len(targets))
    starts = (Start(distance_of(plan, one, calibration, seen, targets), name, one) for name, one in candidates.items())
    return min(starts)


def distance_of(plan: Plan, trained: Trained, calibration: Calibration, indices: range, targets: Tensor) -> float:
    """Mean relative distance of the samples with these indices to their targets, with a plan's schedule."""
    times = trained.times(calibration.generation.solver.grid.times.tolist())

    def new_cache() -> ScheduledCache:
        return ScheduledCache(plan.mask, Learned(plan.mask, trained.weights), plan.site, times=times)

    distance = mean_distance(final_latents(calibration, new_cache, indices), targets).item()
    return distance if distance == distance else float("inf")
