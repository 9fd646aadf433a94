"""One line on a diffusers pipeline: a cache in its transformer, and out of it again."""

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from goc.config.settings import Way
from goc.models.network import Site
from goc.pipelines.calls import enter_in_calls, leave_calls_alone
from goc.pipelines.fingerprint import MadeFor
from goc.pipelines.hooks.attach import hook, hooked
from goc.pipelines.method import LONGEST, check_uncalibrated, gates, uncalibrated_plan, warn_of_gating, way_of
from goc.pipelines.plan_file import PipelinePlan, PlanError
from goc.pipelines.session import (
    TRANSFORMERS,
    CachedTransformer,
    NewCache,
    PipelineCache,
    PipelineError,
    Run,
    check_alone,
)
from goc.pipelines.structure import Blocks, Branches, layout_of
from goc.pipelines.tokens import cache_of, check_token_wise, report_whole
from goc.planning.plan import Plan
from goc.system.errors import ConfigError

DEFAULTS = {"method": "goc", "cache_ratio": 0.5}  # of enable_cache, which a plan may differ from
ATTRIBUTE = "_goc_cache"  # of a pipeline that has one


def transformers_of(pipe: Any) -> dict[str, nn.Module]:
    """The transformers that a pipeline calls in its steps, by name; raises PipelineError if there is none."""
    parts = {name: getattr(pipe, name, None) for name in TRANSFORMERS}
    parts = {name: getattr(part, "_orig_mod", part) for name, part in parts.items()}  # torch.compile's
    transformers = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    if not transformers:
        unet = ", but a UNet" if getattr(pipe, "unet", None) is not None else ""
        raise PipelineError(
            f"{type(pipe).__name__}: has no transformer{unet}; caches are for pipelines with pipe.transformer"
        )
    return transformers


def transformer_of(pipe: Any) -> nn.Module:
    """A pipeline's only transformer; raises PipelineError for none, or two."""
    first, *others = transformers_of(pipe).values()
    if any(other is not first for other in others):
        raise PipelineError(f"{type(pipe).__name__}: has two transformers that share the steps; plans are for one")
    return first


def attach(
    pipe: Any,
    new_cache: NewCache,
    *,
    site: str = "branch",
    method: str = "cache",
    per_sample: bool = False,
    selects: bool = False,
    blocks: Blocks | None = None,
    branches: Branches | None = None,
) -> PipelineCache:
    """Put any cache of goc/caching into a pipeline; `enable_cache` is this with a method's.

    new_cache: from a Run (steps, layout, scheduler) to an empty StepCache, called once for each stream of a pipeline
    call; per_sample: and for each sample of a call. Its masks are bool [steps, places, OUTPUTS], as `run.layout.spread`
    makes them of a schedule's [steps, blocks, 2]. selects: whether it is for a plan that selects tokens. blocks,
    branches: as for `layout_of`. Raises PipelineError or StructureError.
    """
    if site not in ("branch", "stack"):
        raise ConfigError(f"site={site}: must be one of branch, stack")
    transformers = transformers_of(pipe)
    if hasattr(pipe, ATTRIBUTE):
        raise PipelineError(f"{type(pipe).__name__}: has a cache already; goc.disable_cache(pipe) first")
    cached = list[CachedTransformer]()
    for name, transformer in transformers.items():
        if transformer in hooked:
            raise PipelineError(f"{type(transformer).__name__}: has another pipeline's cache; disable that first")
        check_alone(pipe, name, transformer)
        if all(transformer is not other.transformer for other in cached):
            layout = layout_of(transformer, cast(Site, site), blocks, branches)
            if selects:
                check_token_wise(transformer, layout)
            cached.append(CachedTransformer(name, transformer, layout))
    cache = PipelineCache(pipe, cached, new_cache, method, per_sample, selects)
    cache.unhook = hook(cache)
    enter_in_calls(pipe, cache.call, ATTRIBUTE)
    setattr(pipe, ATTRIBUTE, cache)
    return cache


def planned(plan_for: Callable[[Run], Plan]) -> NewCache:
    """What makes the caches of plans: each pipeline call is planned once, and alike ones once."""
    plans: dict[tuple[Any, ...], Plan] = {}

    def new_cache(run: Run) -> Any:
        key = tuple(run.timesteps), run.layout.places
        if key not in plans:
            for old in [old for old in plans if old[0] != key[0]]:
                del plans[old]
            plans[key] = plan_for(run)
        return cache_of(plans[key], run.layout)

    return new_cache


def enable_cache(
    pipe: Any,
    method: str = "goc",
    cache_ratio: float | None = 0.5,
    *,
    plan: PipelinePlan | None = None,
    blocks: Blocks | None = None,
    branches: Branches | None = None,
    **settings: Any,
) -> PipelineCache:
    """Cache the transformer of a diffusers pipeline from its next call on.

        cache = goc.enable_cache(pipe, method="goc", cache_ratio=0.5)
        images = pipe("a cat").images
        print(cache.summary())
        goc.disable_cache(pipe)

    method: a name that needs nothing trained for the model. cache_ratio: share of cells to cache, in [0,
    1), where the method follows one. settings: the method's, as for run.py but without their group: interval=4,
    order=1, site="stack", gradient_weights=[1.2]. With `method="goc"`, corrections are on everywhere: run.py's gates
    are measured in a calibration, which a plan remembers. plan: of `goc.calibrate`, in place of method and settings.
    blocks, branches: names, where the transformer's cannot be found (`goc.pipelines.structure.layout_of`).

    Raises PipelineError, StructureError, ConfigError or PlanError, each with one line, and then changes nothing.
    """
    if plan is not None:
        return _enable_plan(pipe, plan, {"method": method, "cache_ratio": cache_ratio, **settings})
    gates(settings, method)
    settings["inflection_threshold"] = None
    way = way_of(method, cache_ratio, LONGEST, settings)
    check_uncalibrated(way, method)
    warn_of_gating(way)
    new_cache = planned(lambda run: uncalibrated_plan(way_of(method, cache_ratio, run.steps, settings), run))
    return _attach_way(pipe, way, new_cache, method, blocks, branches)


def _enable_plan(pipe: Any, plan: PipelinePlan, asked: dict[str, Any]) -> PipelineCache:
    """The same with a plan, which must be for this pipeline, and for what else was asked."""
    made_with = {"method": plan.method, "cache_ratio": plan.cache_ratio, **plan.settings}
    for key, value in asked.items():
        if value not in (DEFAULTS.get(key), was := made_with.get(key)):
            raise PlanError(f"{key}={value}: the plan was made with {was}; calibrate anew, or leave it out")
    plan.check(MadeFor.of(transformer_of(pipe), pipe.scheduler))
    return _attach_way(pipe, plan.way, planned(plan.plan), plan.method, plan.blocks, plan.branches)


def _attach_way(
    pipe: Any, way: Way, new_cache: NewCache, method: str, blocks: Blocks | None, branches: Branches | None
) -> PipelineCache:
    """The same of a way's caches."""
    cache = attach(
        pipe, new_cache, site=way.site, method=method, per_sample=way.schedule.per_sample,
        selects=way.selection.selects, blocks=blocks, branches=branches,
    )  # fmt: skip
    if cache.selects:
        report_whole(way.selection.name, cache.layout)
    return cache


def disable_cache(pipe: Any) -> None:
    """Take a cache out of a pipeline, whose outputs are then what they were; raises PipelineError if it has none."""
    cache = getattr(pipe, ATTRIBUTE, None)
    if cache is None:
        raise PipelineError(f"{type(pipe).__name__}: has no cache")
    cache.forget()
    cache.unhook()
    leave_calls_alone(pipe)
    delattr(pipe, ATTRIBUTE)
