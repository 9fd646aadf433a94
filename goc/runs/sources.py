"""The files of a run; and from a denoiser's, what samples without a cache come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from goc.config import Config, Measurement, ModelConfig, Way
from goc.metrics.backbones import timm_version
from goc.metrics.features import extractor_weights
from goc.metrics.real_images import folder_sha256
from goc.metrics.scorers import KINDS, find_scorer, scorer_sha256
from goc.models.build import load_model, prepare
from goc.models.checkpoint import require_checkpoint
from goc.models.decoder import Decoder, decode_pixels, find_vae, vae_sha256
from goc.models.dit import DiT
from goc.pipelines.prompts import read_prompts
from goc.planning.denoiser import calibration_of
from goc.runs.pictures import pictures_sha256
from goc.sampling.calibrate import Calibration
from goc.sampling.generation import Generation
from goc.sampling.labels import given_labels, label_file
from goc.sampling.options import plain
from goc.system.device import torch_format
from goc.system.errors import ConfigError, GocError
from goc.system.files import file_sha256, resolve
from goc.system.lazy import LazyModule

if TYPE_CHECKING:
    from goc.pipelines import folder
else:
    folder = LazyModule("goc.pipelines.folder")  # loads diffusers


@dataclass(frozen=True)
class Sources:
    """The files of a run, and the SHA-256 of those that its samples and their features depend on.

    model: a checkpoint, or a pipeline's folder. What there is none of is None: a VAE of a pipeline, prompts of a
    denoiser, an extractor and a reference where no features are wanted. scorers: of images beside their prompts, by the
    settings that name them. call: a pipeline's, which may name pictures.
    labels: a file of class labels. network: what an extractor of timm depends on besides its weights.
    """

    model: Path
    vae: Path | None
    prompts: Path | None
    scorers: Mapping[str, Path]
    extractor_weights: Path | None
    reference: Path | None
    call: Mapping[str, Any] = field(default_factory=dict)
    labels: Path | None = None
    network: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, measurement: Measurement) -> "Sources":
        """Find all files of a measurement; raises GocError naming the first that is missing, and how to get it."""
        model, vae, prompts = measurement.model, None, None
        scorers: dict[str, Path] = {}
        if model.is_pipeline:
            assert model.pipeline is not None  # or it is not valid
            assert measurement.prompts is not None
            prompts = Path(measurement.prompts)
            read_prompts(prompts)
            path = folder.find_pipeline(model.pipeline)
            folder.check_call(folder.pipeline_class(path), model.call, measurement.cfg_scale)
            folder.check_extractor(folder.pipeline_class(path), model.extractor)
            named = {kind: getattr(model, kind) for kind in KINDS}
            scorers = {kind: find_scorer(kind, name) for kind, name in named.items() if name is not None}
        else:
            path = resolve(model.checkpoint)
            require_checkpoint(path)
            vae = None if measurement.vae is None else find_vae(measurement.vae)
        weights = weights_of_extractor(model)
        reference = None if model.reference is None or weights is None else resolve(model.reference)
        labels = label_file(measurement.class_labels)
        network = timm_version(model.extractor or "")
        sources = cls(path, vae, prompts, scorers, weights, reference, model.call, labels, network)
        sources.weights()  # as the files are now
        return sources

    def weights(self) -> dict[str, str | None]:
        """Hashes of all that a sample and its features depend on, as they were found: weights, and prompts if any."""
        return dict(self._found)

    @cached_property
    def _found(self) -> dict[str, str | None]:
        return self._hashes()

    def _hashes(self) -> dict[str, str | None]:
        """The same, of the files as they are."""
        if self.prompts is None:
            model, own = file_sha256(self.model), {"vae_sha256": None if self.vae is None else vae_sha256(self.vae)}
            own |= {} if self.labels is None else {"class_labels_sha256": file_sha256(self.labels)}
        else:
            model = folder.pipeline_sha256(self.model)
            scorers = {f"{kind}_sha256": scorer_sha256(path) for kind, path in self.scorers.items()}
            own = {"prompts_sha256": file_sha256(self.prompts), "clip_sha256": None, **scorers}
            own |= pictures_sha256(self.call)
        weights = None if self.extractor_weights is None else file_sha256(self.extractor_weights)
        return {"model_sha256": model, **own, "extractor_sha256": weights, **self.network}

    @cached_property
    def reference_sha256(self) -> str | None:
        """Of the real images, if there are any."""
        return None if self.reference is None else reference_sha256(self.reference)

    def require_unchanged(self) -> None:
        """Raise GocError if a file that was loaded by now is another one than was found."""
        require_same(self.weights(), self._hashes())


def reference_sha256(path: Path) -> str | None:
    """Of real images: of a file, or of all names and contents in a folder, which is read whole; None: a missing one."""
    if not path.exists():
        return None
    return (folder_sha256 if path.is_dir() else file_sha256)(path)


def require_same(found: Mapping[str, str | None], now: Mapping[str, str | None]) -> None:
    """Raise GocError for the first file whose SHA-256, by its setting, is another one now than was found."""
    for name in {**found, **now}:
        if found.get(name) != now.get(name):
            setting = name.removesuffix("_sha256")
            raise GocError(f"{setting}: its file changed while the run started; start the same command again")


def weights_of_extractor(model: ModelConfig) -> Path | None:
    """Its weights file; None: there is no extractor."""
    if model.extractor is None:
        return None
    named = None if model.extractor_weights is None else resolve(model.extractor_weights)
    return extractor_weights(model.extractor, named)


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
) -> Generation:
    """Generation without a cache, by the denoiser of a checkpoint, which is loaded to the device."""
    model = measurement.model
    denoiser = load_model(model.shape(), checkpoint, model.objective)
    prepare(denoiser, device, torch_format(measurement.precision), compiled)
    return uncached_generation(measurement, way, denoiser, device, decode)


def calibration_alone(config: Config, device: torch.device, compiled: bool) -> Calibration:
    """A config's calibration run, for commands that need none of its files but the checkpoint."""
    measurement, way, model = config.measurement, config.way, config.measurement.model
    if model.is_pipeline:
        raise ConfigError(f"model.objective={model.objective}: must be diffusion or flow here; run.py runs pipelines")
    checkpoint = resolve(model.checkpoint)
    generation = loaded_generation(measurement, way, checkpoint, device, compiled)
    key = trajectory_key(measurement, way, compiled, file_sha256(checkpoint), generation.model)
    return calibration_of(way, generation, key, config.output.cache_dir)


def trajectory_key(measurement: Measurement, way: Way, compiled: bool, model_sha256: str, model: DiT) -> dict[str, Any]:
    """All that uncached trajectories depend on apart from the seeds; compiled ones are kept apart from others."""
    labels = given_labels(measurement.class_labels, model.num_classes)
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
        **({"labels": list(labels)} if labels else {}),
        # labels are drawn from them; weights with a row for the null label leave but one number possible
        **({} if model.null_label else {"num_classes": model.num_classes}),
    }
