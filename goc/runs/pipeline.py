"""A run of a pipeline of diffusers: its files, what samples without a cache come from, its method in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from goc.config import Config, Measurement
from goc.metrics.features import Extractor
from goc.metrics.keep import Score
from goc.metrics.registry import Metric
from goc.metrics.scorers import KINDS, find_scorer, scorer_sha256
from goc.pipelines.prompts import read_prompts
from goc.planning.plan import Plan
from goc.runs.loaded import Loaded
from goc.runs.pictures import pictures_of, with_pictures
from goc.runs.sources import Source, Sources
from goc.sampling.generation import SampleSource
from goc.sampling.options import plain
from goc.system.device import torch_format
from goc.system.lazy import LazyModule
from goc.system.registry import load_object

if TYPE_CHECKING:
    from goc.pipelines import folder, generation, planning
else:  # they load diffusers
    folder, generation = LazyModule("goc.pipelines.folder"), LazyModule("goc.pipelines.generation")
    planning = LazyModule("goc.pipelines.planning")


@dataclass(frozen=True)
class LoadedPipeline(Loaded):
    """A run of a pipeline of diffusers."""

    uncached: "generation.PipelineGeneration"
    scorers: Mapping[str, Path]

    @classmethod
    def files(cls, measurement: Measurement) -> dict[str, Source | None]:
        model = measurement.model
        assert model.pipeline is not None  # or it is not valid
        assert measurement.prompts is not None
        prompts = Path(measurement.prompts)
        read_prompts(prompts)
        path = folder.find_pipeline(model.pipeline)
        folder.check_call(folder.pipeline_class(path), model.call, measurement.cfg_scale)
        folder.check_extractor(folder.pipeline_class(path), model.extractor)
        named = {kind: name for kind in KINDS if (name := getattr(model, kind)) is not None}
        scorers = {kind: Source(find_scorer(kind, name), scorer_sha256) for kind, name in named.items()}
        pictures = {f"call_{name}": Source(picture) for name, picture in pictures_of(model.call).items()}
        files = {"model": Source(path, folder.pipeline_sha256), "prompts": Source(prompts)}
        return {**files, "clip": None, **scorers, **pictures}

    @classmethod
    def load(cls, config: Config, sources: Sources, device: torch.device, extractor: Extractor | None) -> Self:
        measurement, way, model = config.measurement, config.way, config.measurement.model
        path, prompts = sources.path("model"), sources.path("prompts")
        assert path is not None
        assert prompts is not None
        execution = config.execution
        pipe = folder.load_pipeline(path, torch_format(measurement.precision), device, execution.offload)
        call = with_pictures(model.call)
        calls = generation.PipelineCalls(pipe, read_prompts(prompts), way.steps, measurement.cfg_scale, call, device)
        key = {
            "weights": sources.weights()["model_sha256"],
            "prompts": sources.weights()["prompts_sha256"],
            "call": model.call,
            "sampler": plain(way.sampler),
            "steps": way.steps,
            "cfg_scale": measurement.cfg_scale,
            "batch_size": way.batch_size,
            "precision": measurement.precision,
            **({"compile": True} if execution.compile else {}),
        }
        uncached = generation.PipelineGeneration(calls, measurement.seed)
        scorers = {kind: scorer for kind in KINDS if (scorer := sources.path(kind)) is not None}
        return cls(config, uncached, key, extractor, None, scorers)

    @property
    def videos(self) -> bool:
        return folder.makes_videos(type(self.uncached.calls.pipe))

    def plan(self) -> Plan:
        cache_dir = Path(self.config.output.cache_dir)
        key = {**self.key, **({"files": self.config.files} if self.config.files else {})}
        plan = planning.pipeline_plan(self.config.way, self.uncached.calls, key, cache_dir)
        if self.config.execution.compile:
            self.uncached.calls.compile_blocks(plan.site)
        return plan

    def cached(self, plan: Plan, method: str, divergence_hint: str) -> SampleSource:
        new_cache = planning.cache_maker(plan, self.uncached.calls)
        return replace(self.uncached, new_cache=new_cache, method=method, divergence_hint=divergence_hint)

    def score(self, metric: Metric) -> Score:
        if metric.needs != "prompts":
            return super().score(metric)
        load, prompts = load_object(metric.score or ""), self.uncached.calls.prompts
        of_images = load(self.scorers[metric.scorer], self.uncached.device)

        def with_prompts(indices: range, images: Tensor) -> Tensor:
            return of_images(images, [prompts[index % len(prompts)] for index in indices])

        return with_prompts
