"""What a run computes with, loaded from its files: a denoiser of this project or a pipeline, and what scores images."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from goc.config import Config, Output
from goc.metrics.evaluate import check_metrics, needs_images
from goc.metrics.features import Extractor, load_extractor
from goc.metrics.keep import Score
from goc.metrics.reference import Reference, load_reference
from goc.metrics.registry import METRICS, Metric, of_second
from goc.models.decoder import Decoder, decode_pixels, latent_decoder, load_vae, upsampling
from goc.pipelines.prompts import read_prompts
from goc.planning.denoiser import calibration_of, make_plan
from goc.planning.plan import Plan
from goc.runs.pictures import with_pictures
from goc.runs.sources import Sources, loaded_generation, trajectory_key
from goc.sampling.converged import Converged, converged
from goc.sampling.generation import Generation, SampleSource
from goc.sampling.options import plain
from goc.system.device import torch_format
from goc.system.errors import GocError
from goc.system.lazy import LazyModule
from goc.system.registry import load_object

if TYPE_CHECKING:
    from goc.pipelines import folder, generation, planning
else:  # they load diffusers
    folder, generation = LazyModule("goc.pipelines.folder"), LazyModule("goc.pipelines.generation")
    planning = LazyModule("goc.pipelines.planning")


@dataclass(frozen=True)
class Loaded(ABC):
    """What a run computes with.

    uncached: what samples without a cache come from. key: what its trajectories depend on apart from the seeds.
    extractor: None: no features are wanted. image_size: of what is generated, a side; None: not known before.
    """

    config: Config
    uncached: SampleSource
    key: dict[str, Any]
    extractor: Extractor | None
    image_size: int | None

    @abstractmethod
    def plan(self) -> Plan:
        """The plan of the config's method; raises GocError."""

    @abstractmethod
    def cached(self, plan: Plan, method: str, divergence_hint: str) -> SampleSource:
        """What samples with a plan's cache come from."""

    @property
    def videos(self) -> bool:
        """Whether samples have frames."""
        return False

    def samples_key(self) -> dict[str, Any]:
        """What the uncached samples depend on, besides the files of the run."""
        return {**self.key, "seed": self.config.measurement.seed}

    def scores(self, metrics: Sequence[str]) -> Mapping[str, Score]:
        """Numbers that each sample has by itself, by the metric's name, as far as metrics ask for them."""
        scored = {name: METRICS[name] for name in metrics if METRICS[name].score is not None}
        return {name: checked(name, self.score(metric)) for name, metric in scored.items()}

    def score(self, metric: Metric) -> Score:
        """What gives each sample a metric's number."""
        of_images = load_object(metric.score or "")
        return lambda _, images: of_images(images)

    def converged(self, count: int) -> Converged:
        """The converged solution of the first samples; raises GocError where there is none."""
        raise GocError(f"converged_samples={count}: must be 0 with {self.config.measurement.model.name}")

    def reference(self, path: Path | None, output: Output) -> Reference | None:
        """The real images' statistics; raises GocError if the output's metrics cannot be had from them."""
        return reference_of(path, self.extractor, self.image_size, output)

    def second_reference(self, path: Path, extractor: Extractor, output: Output) -> Reference | None:
        """The same for a second extractor."""
        return reference_of(path, extractor, self.image_size, output, second=True)


def reference_of(
    path: Path | None, extractor: Extractor | None, image_size: int | None, output: Output, second: bool = False
) -> Reference | None:
    """The real images' statistics; raises GocError if the output's metrics, or second ones, cannot be had from them."""
    reference, metrics = None, of_second(output.metrics, second)
    if path is not None and extractor is not None:
        wanted = needs_images(metrics)
        reference = load_reference(path, extractor, image_size, wanted, Path(output.cache_dir))
    check_metrics(metrics, reference)
    return reference


def checked(name: str, score: Score) -> Score:
    """A metric's score that raises GocError unless it gives one number for each image."""

    def one_each(indices: range, images: Tensor) -> Tensor:
        values = torch.as_tensor(score(indices, images))
        if values.shape != (len(images),):
            shape = list(values.shape)
            raise GocError(f"metrics={name}: gave {shape} for {len(images)} images; must be one number each")
        return values

    return one_each


def load(config: Config, sources: Sources, device: torch.device) -> Loaded:
    """Load a run's files to a device; raises GocError for a damaged one, or one that does not fit."""
    model, extractor = config.measurement.model, None
    if model.extractor is not None:
        extractor = load_extractor(model.extractor, sources.extractor_weights, device)
    return (load_pipeline_run if model.is_pipeline else load_denoiser_run)(config, sources, device, extractor)


@dataclass(frozen=True)
class LoadedDenoiser(Loaded):
    """A run of a denoiser of this project."""

    uncached: Generation

    def plan(self) -> Plan:
        way, model, cache_dir = self.config.way, self.config.measurement.model, self.config.output.cache_dir
        return make_plan(way, model, calibration_of(way, self.uncached, self.key, cache_dir))

    def cached(self, plan: Plan, method: str, divergence_hint: str) -> SampleSource:
        return replace(self.uncached, new_cache=plan.new_cache, method=method, divergence_hint=divergence_hint)

    def samples_key(self) -> dict[str, Any]:
        return {**super().samples_key(), "vae_batch_size": self.config.measurement.vae_batch_size}

    def converged(self, count: int) -> Converged:
        objective, cache_dir = self.config.measurement.model.objective, Path(self.config.output.cache_dir)
        # what it depends on apart from the seeds is the key without the way
        key = {name: value for name, value in self.key.items() if name not in ("sampler", "steps", "batch_size")}
        return converged(self.uncached, objective, key, count, cache_dir)


def load_denoiser_run(
    config: Config, sources: Sources, device: torch.device, extractor: Extractor | None
) -> LoadedDenoiser:
    """As `load`, of a denoiser."""
    measurement, way, model = config.measurement, config.way, config.measurement.model
    compiled = config.execution.compile
    decode: Decoder = decode_pixels
    scale = 1
    if sources.vae is not None:
        vae = load_vae(sources.vae, model.in_channels, device)
        decode, scale = latent_decoder(vae, measurement.vae_batch_size), upsampling(vae)
    uncached = loaded_generation(measurement, way, sources.model, device, compiled, decode)
    key = trajectory_key(measurement, way, compiled, str(sources.weights()["model_sha256"]), uncached.model)
    return LoadedDenoiser(config, uncached, key, extractor, scale * model.input_size)


@dataclass(frozen=True)
class LoadedPipeline(Loaded):
    """A run of a pipeline of diffusers."""

    uncached: "generation.PipelineGeneration"
    scorers: Mapping[str, Path]

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
        return replace(self.uncached, new_cache=plan.new_cache, method=method, divergence_hint=divergence_hint)

    def score(self, metric: Metric) -> Score:
        if metric.needs != "prompts":
            return super().score(metric)
        load, prompts = load_object(metric.score or ""), self.uncached.calls.prompts
        of_images = load(self.scorers[metric.scorer], self.uncached.device)

        def with_prompts(indices: range, images: Tensor) -> Tensor:
            return of_images(images, [prompts[index % len(prompts)] for index in indices])

        return with_prompts


def load_pipeline_run(
    config: Config, sources: Sources, device: torch.device, extractor: Extractor | None
) -> LoadedPipeline:
    """As `load`, of a pipeline."""
    measurement, way, model = config.measurement, config.way, config.measurement.model
    assert sources.prompts is not None
    execution = config.execution
    pipe = folder.load_pipeline(sources.model, torch_format(measurement.precision), device, execution.offload)
    prompts = read_prompts(sources.prompts)
    call = with_pictures(model.call)
    calls = generation.PipelineCalls(pipe, prompts, way.steps, measurement.cfg_scale, call, device)
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
    return LoadedPipeline(config, uncached, key, extractor, None, sources.scorers)
