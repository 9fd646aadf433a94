"""The plan of a run's method on its pipeline."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from goc.caching.cache import StepCache
from goc.config.settings import Way
from goc.models.network import Site
from goc.pipelines.calibrate import Measured, Trial, measured
from goc.pipelines.enable import transformers_of
from goc.pipelines.generation import PipelineCalls
from goc.pipelines.method import plan_with, uncalibrated_plan
from goc.pipelines.tokens import cache_of, check_token_wise, report_whole
from goc.planning.plan import Plan
from goc.sampling.shared import shared_tensors

KIND = "pipeline-plan"
PARTS = {"mask", "skip_threshold", "correct", "alignment"}
BATCHING = "batch_size"  # of a way: a calibration's calls are of one sample each


def pipeline_plan(way: Way, calls: PipelineCalls, key: dict[str, Any], cache_dir: Path) -> Plan:
    """A way's plan for the calls of a pipeline, from what its calibration measures if it has one; raises GocError.

    key: what the calls depend on. What was measured is kept in cache_dir, and read by the run's other workers.
    """
    run = calls.run(cast(Site, way.site))
    if way.selection.selects:
        check_token_wise(next(iter(transformers_of(calls.pipe).values())), run.layout)
        report_whole(way.selection.name, run.layout)
    if not way.schedule.calibrates() and way.inflection_threshold is None:
        return uncalibrated_plan(way, run)

    def make() -> dict[str, Tensor]:
        return packed(measured(way, trial_of(way, calls), run))

    depends_on, settings = (
        {name: value for name, value in part.items() if name != BATCHING} for part in (key, asdict(way))
    )
    depends_on |= {"places": list(run.layout.shape(run.steps)), "way": settings}
    parts = unpacked(shared_tensors(cache_dir, KIND, depends_on, PARTS, make))
    return replace(plan_with(way, run, parts.mask, parts.skip_threshold, parts.correct), alignment=parts.alignment)


def cache_maker(plan: Plan, calls: PipelineCalls) -> Callable[[], StepCache]:
    """What makes a plan's caches for the calls of a pipeline."""
    layout = calls.run(plan.site).layout
    return lambda: cache_of(plan, layout)


def trial_of(way: Way, calls: PipelineCalls) -> Trial:
    """The uncached calls of a way's calibration: prompts counted round, each with a seed of its own."""
    prompts = [calls.prompts[index % len(calls.prompts)] for index in range(way.calibration_samples)]
    return Trial(calls.pipe, prompts, calls.common(), way.calibration_seed, None, None)


def packed(parts: Measured) -> dict[str, Tensor]:
    """What was measured as tensors; what was not is one without elements."""
    nothing = torch.empty(0, dtype=torch.bool)
    threshold = math.nan if parts.skip_threshold is None else parts.skip_threshold
    return {
        "mask": parts.mask.contiguous(),
        "skip_threshold": torch.tensor(threshold, dtype=torch.float64),
        "correct": nothing if parts.correct is None else parts.correct.contiguous(),
        "alignment": nothing if parts.alignment is None else parts.alignment.contiguous(),
    }


def unpacked(tensors: dict[str, Tensor]) -> Measured:
    """The inverse of `packed`."""
    threshold = tensors["skip_threshold"].item()
    correct, alignment = (tensors[name] if tensors[name].numel() else None for name in ("correct", "alignment"))
    return Measured(tensors["mask"], None if math.isnan(threshold) else threshold, correct, alignment)
