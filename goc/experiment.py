"""One run, from a config to result.json: build, calibrate, generate, evaluate, price, write."""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch_fidelity import FeatureExtractorBase

from goc.caching.calibration import FIRST_GRADIENT_STEP
from goc.caching.cost import forward_macs, image_macs
from goc.config import TRACKING, Config, identity, label, validate
from goc.device import PRECISIONS, choose_device, configure, prepare
from goc.diffusion import NoiseSchedule
from goc.errors import GocError
from goc.evaluate import check_metrics, distance, evaluate, needs_images
from goc.features import EXTRACTORS, Features, extract, extractor_sha256, load_extractor
from goc.files import content_key, file_sha256, resolve, write_json
from goc.generate import Generation, Keep, SampleSet, generate, side_by_side
from goc.images import image_grid, write_npz, write_pngs
from goc.measure import peak_memory, reset_peak_memory
from goc.models.checkpoint import load_weights, require_checkpoint
from goc.models.decoder import Decoder, decode_pixels, find_vae, latent_decoder, load_vae, upsampling, vae_sha256
from goc.models.dit import DiT
from goc.plan import Plan, make_plan, shared_path
from goc.plots import plot_alignment
from goc.protocol import fingerprint, protocol
from goc.reference import Reference, load_reference
from goc.results import CLAIM_FILE, FIRST_IMAGES, RESULT_FILE, SHOWN_IMAGES, git_commit, read_result, software
from goc.workers import Workers, join

GRID_SAMPLES = 64  # in samples.png
LARGE_DISTANCE = 0.25  # relative L2 to the uncached samples; plain reuse stays below it up to 80 % cached digits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """The files a run is made from, and their SHA-256."""

    checkpoint: Path
    vae: Path | None
    extractor_weights: Path | None
    reference: Path
    model_sha256: str
    vae_sha256: str | None
    extractor_sha256: str
    reference_sha256: str | None  # None: a folder, whose images are only looked at when they are needed

    @classmethod
    def of(cls, config: Config) -> "Sources":
        """Find all files of a config; raises GocError naming the first that is missing, and how to get it."""
        checkpoint = resolve(config.model.checkpoint)
        require_checkpoint(checkpoint)
        vae = None if config.vae is None else find_vae(config.vae)
        weights = config.model.extractor_weights
        extractor_weights = None if weights is None else resolve(weights)
        reference = resolve(config.model.reference)
        return cls(
            checkpoint,
            vae,
            extractor_weights,
            reference,
            file_sha256(checkpoint),
            None if vae is None else vae_sha256(vae),
            extractor_sha256(config.model.extractor, extractor_weights),
            file_sha256(reference) if reference.is_file() else None,
        )

    def weights(self) -> dict[str, str | None]:
        """Hashes of all weights that a sample and its features depend on."""
        names = ("model_sha256", "vae_sha256", "extractor_sha256")
        return {name: getattr(self, name) for name in names}


def build_model(config: Config) -> DiT:
    """The denoiser of a config with random weights, on the CPU."""
    return DiT(
        config.model.input_size,
        config.model.patch_size,
        config.model.in_channels,
        config.model.hidden_size,
        config.model.depth,
        config.model.num_heads,
        config.model.num_classes,
    )


def load_model(config: Config) -> DiT:
    """The denoiser of a config with its weights, on the CPU, ready to sample."""
    with torch.device("meta"):  # no time for random weights that are then replaced
        model = build_model(config)
    load_weights(model, resolve(config.model.checkpoint))
    return model.eval().requires_grad_(False)


def uncached_generation(
    config: Config, model: DiT, model_sha256: str, device: torch.device, decode: Decoder = decode_pixels
) -> tuple[Generation, dict[str, Any]]:
    """The config's generation without a cache, and all that its trajectories depend on apart from the seeds."""
    generation = Generation(
        model=model,
        schedule=NoiseSchedule.respaced(config.steps),
        sampler="ddim" if config.sampler == "ddim" else "ddpm",
        cfg_scale=config.cfg_scale,
        cfg_channels=config.cfg_channels,
        seed=config.seed,
        decode=decode,
        device=device,
        autocast=PRECISIONS[config.precision],
    )
    keys = ("sampler", "steps", "cfg_scale", "cfg_channels", "batch_size", "precision", "compile")
    own = {key: getattr(config, key) for key in keys}
    return generation, {"weights": model_sha256, "num_heads": config.model.num_heads, **own}


@dataclass(frozen=True)
class KeepFeatures(Keep):
    """Keeps labels and features of all samples; latents and images of those that are compared, shown or saved.

    compared: the first samples whose latents and images are kept. images: whether all images are.
    """

    extractor: FeatureExtractorBase
    device: torch.device
    compared: int
    images: bool
    features: tuple[str, ...]  # fields of Features that the extractor has

    def names(self, indices: range) -> frozenset[str]:
        names = {"labels", *self.features}
        if indices.start < self.compared:
            names |= {"latents", "images"}
        if self.images or indices.start < GRID_SAMPLES:
            names.add("images")
        return frozenset(names)

    def __call__(self, indices: range, made: dict[str, Tensor]) -> dict[str, Tensor]:
        features = extract(made["images"], self.extractor, self.device)
        everything = {**made, **{name: getattr(features, name) for name in self.features}}
        return {name: everything[name] for name in self.names(indices)}


def claim_folder(folder: Path, own: dict[str, Any]) -> None:
    """Mark a folder as this run's; raises GocError if it holds a run of another config."""
    marker = folder / CLAIM_FILE
    if marker.exists():
        other = json.loads(marker.read_text())
        differing = [key for key in own if other.get(key) != own[key]]
        if differing:
            values = ", ".join(f"{key}={other.get(key)} there, {own[key]} here" for key in differing[:2])
            raise GocError(f"{folder}: holds a run of another config ({values}); choose another hydra.run.dir")
    else:
        write_json(marker, own)


@contextlib.contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Holds a run's folder for this run alone; raises GocError if another one is in it now."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".running.lock", blocking=False):
            yield
    except Timeout as error:
        raise GocError(
            f"{folder}: another run is at work in this folder; wait for it, or choose another name"
        ) from error


def price(config: Config, plan: Plan, model: DiT, samples: SampleSet) -> dict[str, Any]:
    """MACs and held tensors of a run, from what was counted for its shards: what really ran, averaged over samples."""
    shards = list(samples.costs())

    def average(key: str) -> float:
        return sum(count * cost[key] for count, cost in shards) / config.num_samples

    macs, full = average("macs_per_image"), image_macs(model, plan.nothing_cached, config.cfg_scale != 1.0, plan.site)
    held = ("peak_cache_tensors", "peak_cache_bytes")
    return {
        "cache_ratio": average("cache_ratio"),
        "gmacs_per_forward": forward_macs(model) / 1e9,
        "gmacs_per_image": macs / 1e9,
        "macs_saved": 1 - macs / full,
        **{key: max(cost[key] for _, cost in shards) for key in held},
    }


def latency(config: Config, cached: Generation, uncached: Generation) -> dict[str, float | None]:
    """Milliseconds per image of the sampling loop in full batches, cached and uncached side by side."""
    if config.latency_repeats == 0:
        return {"ms_per_image": None, "ms_per_image_uncached": None, "latency_ratio": None}
    samples = min(config.batch_size, config.num_samples)
    own, reference = side_by_side([cached, uncached], samples, config.latency_repeats)
    return {"ms_per_image": 1000 * own, "ms_per_image_uncached": 1000 * reference, "latency_ratio": own / reference}


def run(config: Config, folder: Path) -> dict[str, Any] | None:
    """Carry out one run in its folder and return its result; a finished run is only read back.

    Raises GocError for problems the user can solve. A stopped run goes on where it was when it is started again. With
    several workers, those that do not lead return None.
    """
    validate(config)
    sources = Sources.of(config)
    workers = join(config.worker_timeout_s)
    result = read_result(folder)
    if result is None or not is_result_of(result, config, sources):
        with sole_run(folder) if workers.leads else contextlib.nullcontext():
            if workers.leads:
                claim_folder(folder, {**identity(config), **sources.weights()})
            workers.agree("the config or the weights", content_key([identity(config), sources.weights()]))
            carry_out(config, folder, sources, workers)
        result = read_result(folder)
    return result if workers.leads else None


def is_result_of(result: dict[str, Any], config: Config, sources: Sources) -> bool:
    """Whether a result is this config's, on the same weights and reference."""
    hashes = sources.weights()
    if sources.reference_sha256 is not None:
        hashes["reference_sha256"] = sources.reference_sha256
    same = all(result.get("protocol", {}).get(name) == value for name, value in hashes.items())
    there, here = (
        {key: value for key, value in keys.items() if key not in TRACKING}
        for keys in (result["config"], asdict(config))
    )
    return same and there == here


@dataclass(frozen=True)
class Generated:
    """What a run has made: its method, its samples, and the uncached ones it is compared with.

    Without caching the two are the same. features: names of the features in the shards. peak_memory: of this process
    while it made the samples; empty values if nothing was left to make.
    """

    plan: Plan
    cached: Generation
    uncached: Generation
    samples: SampleSet
    uncached_samples: SampleSet
    features: tuple[str, ...]
    peak_memory: dict[str, int | None]

    def batches(self) -> Iterator[Features]:
        """Features of the samples, shard by shard."""
        return (Features(**tensors) for tensors in self.samples.tensors(*self.features))

    def pairs(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """(cached, uncached) shards, of those samples that were also made without a cache."""
        if self.samples is self.uncached_samples:
            return
        compared = ("latents", "images")
        # the uncached shards, of which there may be fewer, come first and so end the zip
        shards = zip(self.uncached_samples.tensors(*compared), self.samples.tensors(*compared), strict=False)
        for without, own in shards:
            yield own, without


def carry_out(config: Config, folder: Path, sources: Sources, workers: Workers) -> None:
    """Make what is missing of a run together with the other workers; the leader writes its result and pictures."""
    device = choose_device(config.device, workers.local_rank)
    configure(device, config.precision, config.deterministic, config.threads)
    model = prepare(load_model(config), device, config.precision, config.compile)
    extractor = load_extractor(config.model.extractor, sources.extractor_weights, device)
    decode: Decoder = decode_pixels
    scale = 1
    if sources.vae is not None:
        vae = load_vae(sources.vae, config.model.in_channels, device)
        decode, scale = latent_decoder(vae, config.vae_batch_size), upsampling(vae)
    reference = None
    if workers.leads:  # before anything is generated in vain
        reference = load_reference(
            sources.reference,
            extractor,
            sources.extractor_sha256,
            scale * config.model.input_size,
            device,
            Path(config.cache_dir),
            needs_images(config.metrics),
        )
        check_metrics(config.metrics, reference)
    uncached, key = uncached_generation(config, model, sources.model_sha256, device, decode)
    generated = generate_all(config, folder, sources, workers, uncached, key, extractor)
    if reference is not None:
        write_result(config, folder, sources, reference, workers, generated)


def generate_all(
    config: Config,
    folder: Path,
    sources: Sources,
    workers: Workers,
    uncached: Generation,
    key: dict[str, Any],
    extractor: FeatureExtractorBase,
) -> Generated:
    """Generate the run's samples, and before them the uncached ones that they are compared with.

    key: what uncached trajectories depend on, as `uncached_generation` gives it.
    """
    plan = make_plan(config, uncached, key)
    compared = compared_samples(config)
    features = tuple(field.name for field in fields(Features))
    if not EXTRACTORS[config.model.extractor].spatial_size:
        features = features[:2]
    keep = KeepFeatures(extractor, uncached.device, compared, config.save_images != "none", features)

    caching = bool(plan.mask.any())
    shared = {**key, **sources.weights(), "vae_batch_size": config.vae_batch_size, "seed": config.seed}
    count = compared if caching else config.num_samples
    samples = uncached_samples = SampleSet(shared_path(config, "uncached", shared), count, config.batch_size)
    cached = uncached
    reset_peak_memory(uncached.device)
    made = generate(uncached, uncached_samples, keep, workers)
    if caching:
        samples = SampleSet(folder / "samples", config.num_samples, config.batch_size)
        hint = config.predictor.divergence_hint
        cached = replace(uncached, new_cache=plan.new_cache, method=label(config), divergence_hint=hint)
        reset_peak_memory(uncached.device)
        made = generate(cached, samples, keep, workers)
    peak: dict[str, int | None] = {"peak_memory_bytes": None}
    if made:
        peak |= peak_memory(uncached.device)
    return Generated(plan, cached, uncached, samples, uncached_samples, features, peak)


def write_result(
    config: Config, folder: Path, sources: Sources, reference: Reference, workers: Workers, generated: Generated
) -> None:
    """Evaluate and price what was generated; write result.json, the pictures, and the images if they are to be kept."""
    plan, samples = generated.plan, generated.samples
    described = protocol(config, {**sources.weights(), "reference_sha256": reference.sha256})
    cost = price(config, plan, generated.uncached.model, samples)
    result = {
        "method": label(config),
        "config": asdict(config),
        "metrics": evaluate(config.metrics, generated.batches, config.num_samples, reference),
        "distance": measured_distance(config, generated),
        "cost": {**cost, **generated.peak_memory, **latency(config, generated.cached, generated.uncached)},
        **plan.describe(),
        "protocol": described,
        "fingerprint": fingerprint(described),
        "software": software(),
        "device": str(generated.uncached.device),
        "threads": torch.get_num_threads(),
        "workers": workers.count,
        "git_commit": git_commit(),
    }
    first = samples.first_images(GRID_SAMPLES)
    image_grid(first, columns=8).save(folder / "samples.png")
    np.save(folder / FIRST_IMAGES, first[:SHOWN_IMAGES].numpy())
    if config.save_images == "png":
        write_pngs(samples.images(), folder / "images")
    elif config.save_images == "npz":
        write_npz(samples.images(), config.num_samples, folder / "images.npz")
    if plan.alignment is not None and config.steps > FIRST_GRADIENT_STEP:
        plot_alignment(result, folder / "alignment.png")
    write_json(folder / RESULT_FILE, result)


def measured_distance(config: Config, generated: Generated) -> dict[str, float]:
    """The distance to the uncached samples; says so when a predictor that can diverge has gone far from them."""
    measured = distance(generated.pairs())
    relative, hint = measured.get("relative_l2", 0.0), config.predictor.divergence_hint
    if hint and relative > LARGE_DISTANCE:
        log.warning("relative L2 to the uncached samples is %.3g%s", relative, hint)
    return measured


def compared_samples(config: Config) -> int:
    """How many samples are compared with uncached ones: distance_samples, in whole shards."""
    if config.distance_samples is None:
        return config.num_samples
    shards = -(-config.distance_samples // config.batch_size)
    return min(config.num_samples, shards * config.batch_size)
