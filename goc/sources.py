"""The files that a run is made from, and what is loaded from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from goc.config import Config, Measurement, Output, Way
from goc.metrics.evaluate import check_metrics, needs_images
from goc.metrics.features import Extractor, extractor_weights, load_extractor
from goc.metrics.reference import Reference, load_reference
from goc.models.build import load_model, prepare
from goc.models.checkpoint import require_checkpoint
from goc.models.decoder import Decoder, decode_pixels, find_vae, latent_decoder, load_vae, upsampling, vae_sha256
from goc.models.dit import DiT
from goc.plan import calibration_of
from goc.samplers import plain
from goc.sampling.calibrate import Calibration
from goc.sampling.generation import Generation
from goc.system.device import torch_format
from goc.system.files import file_sha256, resolve


@dataclass(frozen=True)
class Sources:
    """The files of a run, and their SHA-256."""

    checkpoint: Path
    vae: Path | None
    extractor_weights: Path
    reference: Path
    model_sha256: str
    vae_sha256: str | None
    extractor_sha256: str
    reference_sha256: str | None  # None: a folder, whose images are only looked at when they are needed

    @classmethod
    def of(cls, measurement: Measurement) -> "Sources":
        """Find all files of a measurement; raises GocError naming the first that is missing, and how to get it."""
        model = measurement.model
        checkpoint = resolve(model.checkpoint)
        require_checkpoint(checkpoint)
        vae = None if measurement.vae is None else find_vae(measurement.vae)
        named = None if model.extractor_weights is None else resolve(model.extractor_weights)
        weights, reference = extractor_weights(model.extractor, named), resolve(model.reference)
        return cls(
            checkpoint,
            vae,
            weights,
            reference,
            file_sha256(checkpoint),
            None if vae is None else vae_sha256(vae),
            file_sha256(weights),
            file_sha256(reference) if reference.is_file() else None,
        )

    def weights(self) -> dict[str, str | None]:
        """Hashes of all weights that a sample and its features depend on."""
        names = ("model_sha256", "vae_sha256", "extractor_sha256")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Loaded:
    """What a run computes with: its generation without a cache, its extractor, and how large its images are.

    key: what the uncached trajectories depend on apart from the seeds.
    """

    uncached: Generation
    key: dict[str, Any]
    extractor: Extractor
    image_size: int

    @property
    def measurement_key(self) -> dict[str, Any]:
        """What the converged solution depends on apart from the seeds: the key without the way."""
        return {name: value for name, value in self.key.items() if name not in ("sampler", "steps", "batch_size")}

    @classmethod
    def of(cls, config: Config, sources: Sources, device: torch.device) -> "Loaded":
        """Load a run's files to a device; raises GocError for a damaged one, or one that does not fit."""
        measurement, way, model = config.measurement, config.way, config.measurement.model
        dtype = torch_format(measurement.precision)
        denoiser = load_model(model.shape(), sources.checkpoint, model.objective)
        prepare(denoiser, device, dtype, config.execution.compile)
        extractor = load_extractor(model.extractor, sources.extractor_weights, device)
        decode: Decoder = decode_pixels
        scale = 1
        if sources.vae is not None:
            vae = load_vae(sources.vae, model.in_channels, device)
            decode, scale = latent_decoder(vae, measurement.vae_batch_size), upsampling(vae)
        generation = uncached_generation(measurement, way, denoiser, device, decode)
        key = trajectory_key(measurement, way, config.execution.compile, sources.model_sha256)
        return cls(generation, key, extractor, scale * model.input_size)

    def reference(self, path: Path, output: Output) -> Reference:
        """The real images' statistics; raises GocError if the output's metrics cannot be had from them."""
        reference = load_reference(
            path, self.extractor, self.image_size, needs_images(output.metrics), Path(output.cache_dir)
        )
        check_metrics(output.metrics, reference)
        return reference


def uncached_generation(
    measurement: Measurement, way: Way, model: DiT, device: torch.device, decode: Decoder = decode_pixels
) -> Generation:
    """Generation without a cache, with a way's sampler and steps."""
    return Generation(
        model=model,
        solver=way.sampler.solver(way.steps),
        cfg_scale=measurement.cfg_scale,
        cfg_channels=measurement.cfg_channels,
        seed=measurement.seed,
        decode=decode,
        device=device,
        autocast=torch_format(measurement.precision),
    )


def calibration_alone(config: Config, device: torch.device, compiled: bool) -> Calibration:
    """A config's calibration run, for commands that need none of its files but the checkpoint."""
    measurement, way, model = config.measurement, config.way, config.measurement.model
    checkpoint = resolve(model.checkpoint)
    denoiser = load_model(model.shape(), checkpoint, model.objective)
    prepare(denoiser, device, torch_format(measurement.precision), compiled)
    generation = uncached_generation(measurement, way, denoiser, device)
    key = trajectory_key(measurement, way, compiled, file_sha256(checkpoint))
    return calibration_of(way, generation, key, config.output.cache_dir)


def trajectory_key(measurement: Measurement, way: Way, compiled: bool, model_sha256: str) -> dict[str, Any]:
    """All that uncached trajectories depend on apart from the seeds; compiled ones are kept apart from others."""
    return {
        "weights": model_sha256,
        "num_heads": measurement.model.num_heads,
        "sampler": plain(way.sampler),
        "steps": way.steps,
        "cfg_scale": measurement.cfg_scale,
        "cfg_channels": measurement.cfg_channels,
        "batch_size": way.batch_size,
        "precision": measurement.precision,
        "compile": compiled,
    }
