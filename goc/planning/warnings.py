"""What is said of a plan that cannot go well, and of samples that went astray."""

import logging

import torch
from torch import Tensor

from goc.caching.calibration import FIRST_GRADIENT_STEP
from goc.caching.schedule import cache_ratio_of
from goc.config import Way
from goc.methods.predictors import AGAINST_DIVERGENCE
from goc.planning.plan import Plan

LARGE_DISTANCE = 0.25  # relative L2 to the uncached samples; plain reuse stays below it up to 80 % cached digits

log = logging.getLogger(__name__)


def report_ratio(way: Way, mask: Tensor) -> None:
    """Say which ratio a target became, where it could not be met."""
    reached = cache_ratio_of(mask)
    if way.cache_ratio is not None and abs(reached - way.cache_ratio) > 1e-9:
        log.warning(
            f"cache_ratio={way.cache_ratio:g}: became {reached:.4g}, the closest that schedule={way.schedule.name} "
            f"allows with steps={way.steps}"
        )


def warn_of_divergence(plan: Plan) -> None:
    """Say so when the gradient queue will amplify its own errors, and what to do."""
    if plan.diverges:
        log.warning(
            f"the gradient queue amplifies its own errors up to {plan.amplification:.3g} times on this schedule: "
            f"expect it to diverge; {AGAINST_DIVERGENCE}"
        )


def warn_of_reuse(plan: Plan) -> None:
    """Say where gradients between computed features do not exist yet, so that a feature is reused."""
    if not plan.way.predictor.anchored or plan.adaptive:
        return
    few = plan.mask & ((~plan.mask).cumsum(dim=0) < FIRST_GRADIENT_STEP)
    if steps := torch.nonzero(few.flatten(1).any(dim=1)).flatten().tolist():
        log.warning(
            f"predictor.gradients=computed: before the cached steps {','.join(map(str, steps))} fewer than two are "
            "computed: plain reuse there"
        )


def warn_of_distance(plan: Plan, relative_l2: float) -> None:
    """Say so when samples went far from the uncached ones, and whether the gradient queue's errors grew to that."""
    factor = plan.amplification
    if factor is None or relative_l2 <= LARGE_DISTANCE:
        return
    why = f": the gradient queue diverged; {AGAINST_DIVERGENCE}"
    if not plan.diverges:
        why = (
            f", though errors grow at most {factor:.3g} times: these steps are too far apart, or corrections mislead "
            "here; compare with predictor=reuse, or lower cache_ratio"
        )
    log.warning(f"relative L2 to the uncached samples is {relative_l2:.3g}{why}")
