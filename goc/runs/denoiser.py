"""A run of a denoiser of this project: its files, what samples without a cache come from, its method on it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from goc.config import Config, Measurement, Way
from goc.metrics.features import Extractor
from goc.models.build import load_model, prepare
from goc.models.checkpoint import require_checkpoint
from goc.models.custom import load_network
from goc.models.decoder import Decoder, decode_pixels, find_vae, latent_decoder, load_vae, upsampling, vae_sha256
from goc.models.network import Network
from goc.planning.denoiser import calibration_of, make_plan
from goc.planning.plan import Plan
from goc.runs.loaded import Loaded
from goc.runs.sources import Source, Sources
from goc.sampling.calibrate import Calibration
from goc.sampling.converged import Converged, converged
from goc.sampling.generation import Generation, SampleSource
from goc.sampling.graphs import Graphs
from goc.sampling.labels import given_labels, label_file
from goc.sampling.options import keyed
from goc.system.device import choose_device, configure, torch_format
from goc.system.errors import ConfigError
from goc.system.files import file_sha256, resolve


@dataclass(frozen=True)
class LoadedDenoiser(Loaded):
    """A run of a denoiser of this project."""

    uncached: Generation

    @classmethod
    def files(cls, measurement: Measurement) -> dict[str, Source | None]:
        checkpoint = resolve(measurement.model.checkpoint)
        require_checkpoint(checkpoint)
        vae = None if measurement.vae is None else Source(find_vae(measurement.vae), vae_sha256)
        labels = label_file(measurement.class_labels)
        named = {} if labels is None else {"class_labels": Source(labels)}
        return {"model": Source(checkpoint), "vae": vae, **named}

    @classmethod
    def load(cls, config: Config, sources: Sources, device: torch.device, extractor: Extractor | None) -> Self:
        measurement, way, model = config.measurement, config.way, config.measurement.model
        compiled, checkpoint, vae_folder = config.execution.compile, sources.path("model"), sources.path("vae")
        assert checkpoint is not None
        decode: Decoder = decode_pixels
        scale = 1
        if vae_folder is not None:
            vae = load_vae(vae_folder, model.in_channels, device)
            decode, scale = latent_decoder(vae, measurement.vae_batch_size), upsampling(vae)
        graphs = bool(config.execution.graphs)
        if graphs and device.type != "cuda":
            raise ConfigError(f"graphs=true: must be auto or false with device={device}, which is no CUDA GPU")
        uncached = loaded_generation(measurement, way, checkpoint, device, compiled, decode, graphs)
        key = trajectory_key(measurement, way, compiled, str(sources.weights()["model_sha256"]), uncached.model)
        return cls(config, uncached, key, extractor, scale * model.input_size)

    def plan(self) -> Plan:
        way, model, cache_dir = self.config.way, self.config.measurement.model, self.config.output.cache_dir
        return make_plan(way, model, calibration_of(way, self.uncached, self.key, cache_dir))

    def cached(self, plan: Plan, method: str, divergence_hint: str) -> SampleSource:
        new_cache = plan.new_cache
        graphs = None if self.uncached.graphs is None else Graphs(new_cache)
        return replace(
            self.uncached, new_cache=new_cache, method=method, divergence_hint=divergence_hint, graphs=graphs
        )

    def samples_key(self) -> dict[str, Any]:
        return {**super().samples_key(), "vae_batch_size": self.config.measurement.vae_batch_size}

    def converged(self, count: int) -> Converged:
        objective, cache_dir = self.config.measurement.model.objective, Path(self.config.output.cache_dir)
        return converged(self.uncached, objective, solution_key(self.key), count, cache_dir)


def uncached_generation(
    measurement: Measurement, way: Way, model: Network, device: torch.device, decode: Decoder = decode_pixels
) -> Generation:
    """Generation without a cache, with a way's sampler and steps."""
    return Generation(
        model=model,
        solver=way.sampler.solver(way.steps),
        cfg_scale=measurement.cfg_scale,
        cfg_channels=measurement.cfg_channels,
        seed=measurement.seed,
        labels=given_labels(measurement.class_labels, measurement.model.num_classes),
        decode=decode,
        device=device,
        autocast=torch_format(measurement.precision),
    )


def loaded_generation(
    measurement: Measurement,
    way: Way,
    checkpoint: Path,
    device: torch.device,
    compiled: bool,
    decode: Decoder = decode_pixels,
    graphs: bool = False,
) -> Generation:
    """Generation without a cache, by the denoiser of a checkpoint, which is loaded to the device."""
    model = measurement.model
    denoiser: Network
    if model.network is None:
        denoiser = load_model(model.shape(), checkpoint, model.objective)
    else:
        denoiser = load_network(model.network, model.shape(), checkpoint, model.objective)
    prepare(denoiser, device, torch_format(measurement.precision), compiled, graphs)
    generation = uncached_generation(measurement, way, denoiser, device, decode)
    return replace(generation, graphs=Graphs()) if graphs else generation


def calibration_alone(config: Config, device: torch.device, compiled: bool) -> Calibration:
    """A config's calibration run, for commands that need none of its files but the checkpoint."""
    measurement, way, model = config.measurement, config.way, config.measurement.model
    if model.is_pipeline:
        raise ConfigError(f"model.objective={model.objective}: must be diffusion or flow here; run.py runs pipelines")
    checkpoint = resolve(model.checkpoint)
    generation = loaded_generation(measurement, way, checkpoint, device, compiled)
    key = trajectory_key(measurement, way, compiled, file_sha256(checkpoint), generation.model)
    return calibration_of(way, generation, key, config.output.cache_dir)


def configured_calibration(config: Config) -> Calibration:
    """The same, not compiled, on the device and with the precision and threads that the config names."""
    execution = config.execution
    device = choose_device(execution.device)
    configure(device, config.measurement.precision, execution.deterministic, execution.threads)
    return calibration_alone(config, device, compiled=False)


def solution_key(key: dict[str, Any]) -> dict[str, Any]:
    """What the converged solution depends on apart from the seeds: a trajectory's key without the way."""
    return {name: value for name, value in key.items() if name not in ("sampler", "steps", "batch_size")}


def trained_for(measurement: Measurement, model_sha256: str) -> dict[str, Any]:
    """What a solver's times are learned for besides the solver: a model and its guidance."""
    guidance = ("cfg_scale", "cfg_channels") if measurement.cfg_scale != 1 else ("cfg_scale",)
    return {"model_sha256": model_sha256, **{key: getattr(measurement, key) for key in guidance}}


def trajectory_key(
    measurement: Measurement, way: Way, compiled: bool, model_sha256: str, model: Network
) -> dict[str, Any]:
    """All that uncached trajectories depend on apart from the seeds; compiled ones are kept apart from others.

    Raises ConfigError where the sampler's times were trained for another model or guidance.
    """
    labels = given_labels(measurement.class_labels, model.num_classes)
    settings = measurement.model
    network = {"network": settings.network, "source": settings.network_source, "shape": settings.shape()}
    way.sampler.check_model(trained_for(measurement, model_sha256))
    return {
        "weights": model_sha256,
        "num_heads": settings.num_heads,
        "sampler": keyed(way.sampler),
        "steps": way.steps,
        "cfg_scale": measurement.cfg_scale,
        "cfg_channels": measurement.cfg_channels,
        "batch_size": way.batch_size,
        "precision": measurement.precision,
        "compile": compiled,
        **({"labels": list(labels)} if labels else {}),
        **({} if settings.network is None else network),
        # labels are drawn from them; weights with a row for the null label leave but one number possible
        **({} if model.null_label else {"num_classes": model.num_classes}),
    }
