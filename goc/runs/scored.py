"""Samples made elsewhere, measured as a run's are: the images in a folder, or in an .npz as ADM's."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.config import Config, flat, validate
from goc.config.identity import FILES
from goc.metrics.archive import archived_images, open_archive
from goc.metrics.backbones import timm_version
from goc.metrics.features import Extractor, load_extractor
from goc.metrics.keep import KeepFeatures
from goc.metrics.real_images import EXTRACTION_BATCH, RealImages, folder_images
from goc.metrics.registry import METRICS, of_second
from goc.report.measurement import describe_measurement
from goc.report.result import Result
from goc.report.results import RESULT_FILE, run_key, write_influence
from goc.runs.kinds import sources_of
from goc.runs.loaded import reference_of
from goc.runs.made import Made, described_result
from goc.runs.measure import leave_first
from goc.runs.second import REFERENCE as SECOND_REFERENCE
from goc.runs.second import Second
from goc.runs.sources import weights_of_extractor
from goc.sampling.generate import generate
from goc.sampling.generation import MadeAtOnce
from goc.sampling.shards import SampleSet
from goc.sampling.workers import Workers
from goc.system.device import choose_device
from goc.system.errors import ConfigError, GocError
from goc.system.files import content_key, file_sha256, read_json, resolve, room_for, write_json

IMAGES = "images"  # what messages call them
OF_LATENTS = ("mse", "relative_l2")  # how names of distances begin that are not of images

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Elsewhere:
    """What is said of samples that were made elsewhere.

    name: of what made them, in tables. paired: whether image i is of the same seed, label and noise as sample i of the
    runs that it is compared with, so that differences are of pairs. evaluations of the network, GMACs and seconds: for
    one image; None: not known.
    """

    name: str
    paired: bool = False
    evaluations: float | None = None
    gmacs: float | None = None
    seconds: float | None = None


class Pictures(MadeAtOnce):
    """Images in their order as what samples come from (`goc.sampling.generation.SampleSource`)."""

    evaluations, macs_per_forward = 0, 0.0

    def __init__(self, images: RealImages, device: torch.device) -> None:
        self.images, self.device, self.method = images, device, f"images of {images.path.name}"
        self.batches, self.next = iter(images.batches()), 0

    def make(self, indices: range) -> tuple[dict[str, Tensor], None]:
        """A batch of images; where latents would be, their values in [0, 1]."""
        number = indices.start // EXTRACTION_BATCH
        if number < self.next:
            self.batches, self.next = iter(self.images.batches()), 0
        batch = next(islice(self.batches, number - self.next, None))
        self.next = number + 1
        return {"images": batch, "latents": batch / 255, "labels": torch.zeros(len(batch), dtype=torch.long)}, None

    def cost(self, made_with: None) -> dict[str, Any]:
        return {}

    def step_seconds(self, samples: int) -> list[float]:
        return []


def open_images(path: Path, extractor: Extractor, what: str = IMAGES) -> RealImages:
    """The images in a folder, by the numbers in their names, or in an .npz; says how many, and what is not used.

    Raises GocError naming the first that is of another size than the others, or cannot be read.
    """
    if not path.exists():
        raise GocError(f"{what}={path}: no such folder or file (looked for {path.absolute()})")
    if path.is_dir():
        images = folder_images(path, extractor.kind.channels, None, what, numbered=True)
    else:
        with open_archive(path, what) as archive:
            images = archived_images(path, file_sha256(path), archive, what)
    said = "; ".join((f"{images.count} images of {images.size}x{images.size} pixels read", *images.notes))
    log.log(logging.WARNING if images.notes else logging.INFO, "%s=%s: %s", what, path, said)
    return images


def sample_set(
    images: RealImages, folder: Path, extractor: Extractor, compared: int, second: Extractor | None = None
) -> tuple[SampleSet, KeepFeatures]:
    """The images as samples on disk, with their features; a stopped command goes on where it was."""
    identity = content_key([images.sha256, images.rule, *extractor.identity.values()])
    samples = SampleSet(folder, images.count, EXTRACTION_BATCH, identity)
    keep = KeepFeatures(extractor, compared, images=False, second=second)
    generate(Pictures(images, extractor.device), samples, keep, Workers())
    return samples, keep


def check_scorable(config: Config) -> None:
    """Raise ConfigError for the first setting that images made elsewhere cannot be measured in."""
    model, way = config.measurement.model, config.way
    if model.is_pipeline or model.extractor is None:
        raise ConfigError(f"model={model.name}: must be a denoiser's, whose extractor and reference are known")
    if way.schedule.caches():
        raise ConfigError(f"schedule={way.schedule.name}: must be none; --name says what made the images")
    for name in config.output.metrics:
        if METRICS[name].score is not None:
            raise ConfigError(f"metrics={name}: not supported here, as it is of single samples")


def check_folder(folder: Path, said: Elsewhere, images: RealImages, others: Sequence[Path]) -> None:
    """Raise ConfigError for a folder in which there is something else than an earlier result of the same images."""
    for other in (images.path, *others):
        if other.is_dir() and folder.absolute().resolve().is_relative_to(other.resolve()):
            raise ConfigError(f"out={folder}: must not be in {other}, whose images are read")
    if not (folder / RESULT_FILE).exists():
        return
    try:
        of = read_json(folder / RESULT_FILE)["config"][FILES][IMAGES]
    except (OSError, ValueError, LookupError, TypeError):
        of = None
    if of != images.sha256:
        what = "another result" if of is None else "the score of other images"
        raise ConfigError(f"name={said.name}: {folder} holds {what}; choose another name or --out, or remove it")


def score_images(
    path: Path, said: Elsewhere, config: Config, folder: Path, against: Path | None = None, counted: bool = False
) -> Result:
    """Measure images that were made elsewhere as a run's, and leave in a folder what a run leaves.

    config: whose measurement they are of: its model, guidance and seed are what they are compared in, its extractor,
    reference and metrics what they are measured by. against: images of the same seeds, made without a cache; the
    distances are to them. counted: whether the config's num_samples must be theirs. Raises GocError.
    """
    measurement, output = config.measurement, config.output
    model = measurement.model
    check_scorable(config)
    assert model.extractor is not None
    device = choose_device(config.execution.device)
    extractor = load_extractor(model.extractor, weights_of_extractor(model), device)
    images = open_images(path, extractor)
    target = None if against is None else open_images(against, extractor, "against")
    if target is not None and (target.count, target.size) != (images.count, images.size):
        raise GocError(
            f"against={against}: {target.count} images of {target.size}x{target.size} pixels, must be {images.count} "
            f"of {images.size}x{images.size}: those of the same seeds"
        )
    check_folder(folder, said, images, [] if against is None else [against])
    if counted and measurement.num_samples != images.count:
        raise ConfigError(f"num_samples={measurement.num_samples}: must be {images.count}, as many as there are images")
    measurement.num_samples, config.way.batch_size = images.count, EXTRACTION_BATCH
    validate(config)
    cost = cost_of(said, config)
    assert model.reference is not None  # or the config is not valid
    compares = any(METRICS[name].compares for name in of_second(output.metrics, False))
    reference = reference_of(resolve(model.reference) if compares else None, extractor, images.size, output)
    files = Second.of(model, output.metrics)
    second, second_reference, hashes = None, None, weights_at_hand(config)
    if files is not None:
        second = files.load(device)
        second_reference = reference_of(files.reference, second, images.size, output, second=True)
        assert second_reference is not None
        hashes |= {**files.said(), SECOND_REFERENCE: second_reference.sha256}
    hashes["reference_sha256"] = None if reference is None else reference.sha256
    pairs = images.count if said.paired or target is not None else 0
    samples, keep = sample_set(images, folder / "samples", extractor, pairs, second)
    compared = samples
    if target is not None:
        compared, _ = sample_set(target, folder / "against", extractor, target.count)
    made = Made(samples, compared, keep.fields, second_field=keep.second_field)
    scores = made.quality(output.metrics, reference, second_reference)
    distances, lpips = made.distances(device)
    for found in (distances.values, distances.influence):
        for name in [name for name in found if name.startswith(OF_LATENTS)]:
            del found[name]  # which are not known: there is nothing to compare with a run's
    compared_in = describe_measurement(measurement, hashes)
    content = {
        "method": said.name,
        "config": flat(config) | {FILES: {IMAGES: images.sha256}},
        "metrics": scores.values,
        "distance": distances.values,
        "converged": None,
        "cost": cost,
        "inflection": {},
        "elsewhere": {**asdict(said), "images": str(path), "against": None if against is None else str(against)},
        **described_result(folder, made, compared_in, output.metrics, lpips, device),
    }
    leave_first(folder, samples)
    if said.paired:
        write_influence(folder, {**scores.influence, **distances.influence}, run_key(content))
    with room_for(folder / RESULT_FILE):
        write_json(folder / RESULT_FILE, content)
    return Result(folder, content)


def weights_at_hand(config: Config) -> dict[str, str | None]:
    """Hashes of all weights of the measurement, as a run has them; without the model's it is one of its own.

    Images of runs and of others may be compared only if they are by the same weights, which a file here tells.
    """
    model = config.measurement.model
    if resolve(model.checkpoint).is_file():
        return sources_of(config.measurement).weights()
    log.warning(
        "model.checkpoint=%s: not at hand, so that these numbers are compared with those of other scored images alone",
        model.checkpoint,
    )
    weights = weights_of_extractor(model)
    assert weights is not None  # it was loaded
    network = timm_version(model.extractor or "")
    return {"model_sha256": None, "vae_sha256": None, "extractor_sha256": file_sha256(weights), **network}


def cost_of(said: Elsewhere, config: Config) -> dict[str, float | None]:
    """What an image cost, as far as it was said; by its evaluations, which share of the way's steps was cached."""
    full = config.way.num_evaluations
    ratio = None if said.evaluations is None else 1 - said.evaluations / full
    if ratio is not None and not 0 <= ratio < 1:
        raise ConfigError(f"evaluations={said.evaluations:g}: must be more than 0 and at most {full}, as steps={full}")
    return {
        "cache_ratio": ratio,
        "evaluations": said.evaluations,
        "gmacs_per_image": said.gmacs,
        "ms_per_image": None if said.seconds is None else 1000 * said.seconds,
    }
