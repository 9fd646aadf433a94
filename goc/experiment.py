"""One run, from a config to result.json: build, calibrate, generate, evaluate, price, write."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from safetensors.torch import load_file, save
from torch import Tensor

from goc.caching.cache import FeatureCache
from goc.caching.cost import forward_macs, image_macs
from goc.caching.inflection import AlignmentRecorder, correct_at, inflections, step_alignment
from goc.caching.schedule import cache_ratio_of, cached_steps_of
from goc.config import Config, identity, label, validate
from goc.diffusion import NoiseSchedule
from goc.errors import ConfigError, GocError
from goc.evaluate import distance, evaluate, extract, load_extractor, load_reference
from goc.files import content_key, file_sha256, resolve, write_atomically, write_json
from goc.generate import Generation, SampleSet, generate
from goc.images import image_grid
from goc.models.checkpoint import load_weights
from goc.models.decoder import decode_pixels
from goc.models.dit import DiT
from goc.report import plot_alignment
from goc.results import RESULT_FILE, git_commit, read_result, software

GRID_SAMPLES = 64

log = logging.getLogger(__name__)


class Method(NamedTuple):
    """A schedule and where its predictions are corrected, on one model: what a cache needs."""

    mask: Tensor  # bool [steps, blocks, 2]
    correct: Tensor | None  # the same shape; None = everywhere
    alignment: Tensor | None  # float64 [steps, blocks, 2], where it was measured


def choose_device(name: str) -> torch.device:
    """The torch device of `device=`; raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: must be auto, cpu, or a device of this machine") from error
    return device


def load_model(config: Config) -> DiT:
    """The denoiser of a config with its weights, on the CPU, ready to sample."""
    model = DiT(
        config.model.input_size,
        config.model.patch_size,
        config.model.in_channels,
        config.model.hidden_size,
        config.model.depth,
        config.model.num_heads,
        config.model.num_classes,
    )
    load_weights(model, resolve(config.model.checkpoint))
    return model.eval().requires_grad_(False)


def sampling_key(config: Config, model_sha256: str) -> dict[str, Any]:
    """What an uncached trajectory depends on, apart from the seeds; the content that caches on disk go by."""
    keys = ("sampler", "steps", "cfg_scale", "cfg_channels", "batch_size")
    own = {key: getattr(config, key) for key in keys}
    return {"weights": model_sha256, "num_heads": config.model.num_heads, **own}


def shared_path(config: Config, kind: str, key: dict[str, Any]) -> Path:
    """Where something that several runs share is kept: named by all that it depends on."""
    folder = Path(config.cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}-{content_key(key)}"


def calibrate(config: Config, generation: Generation, key: dict[str, Any]) -> Tensor:
    """Gradient alignment of the uncached run, float64 [steps, blocks, 2]; from disk if it was measured before."""
    key = {**key, "seed": config.calibration_seed, "samples": config.calibration_samples}
    path = shared_path(config, "alignment", key)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            recorder = AlignmentRecorder(config.steps, generation.model.depth, generation.device)
            calibration = replace(generation, new_cache=lambda: recorder, seed=config.calibration_seed)
            for start in range(0, config.calibration_samples, config.batch_size):
                calibration.make(range(start, min(start + config.batch_size, config.calibration_samples)))
            content = save({"alignment": recorder.alignment()}, metadata={"key": json.dumps(key)})
            write_atomically(path, content)
    return load_file(path)["alignment"]


def build_method(config: Config, depth: int, measure_alignment: Callable[[], Tensor]) -> Method:
    """Turn the settings into masks; the alignment is measured only if a setting needs it."""
    mask = config.schedule.mask(config.steps, depth, config.cache_ratio or 0.0)
    reached = cache_ratio_of(mask)
    if config.cache_ratio is not None and abs(reached - config.cache_ratio) > 1e-9:
        log.warning("cache_ratio=%g: became %g, what %d steps allow", config.cache_ratio, reached, config.steps)
    if config.correct_steps is not None:
        return Method(mask, correct_at(config.correct_steps, tuple(mask.shape)), None)
    if config.inflection_threshold is None:
        return Method(mask, None, None)
    alignment = measure_alignment()
    per_cell = config.inflection_scope == "cell"
    return Method(mask, ~inflections(alignment, config.inflection_threshold, per_cell), alignment)


def uncached_samples(config: Config, generation: Generation, key: dict[str, Any]) -> SampleSet:
    """The samples without a cache, which every cached run of the same seeds is compared with; made only once."""
    folder = shared_path(config, "uncached", {**key, "seed": config.seed, "num_samples": config.num_samples})
    samples = SampleSet(folder, config.num_samples, config.batch_size)
    with FileLock(folder.with_suffix(".lock")):
        generate(generation, samples, "uncached")
    return samples


def claim_folder(folder: Path, own: dict[str, Any]) -> None:
    """Mark a folder as this run's; raises GocError if it holds a run of another config."""
    marker = folder / "run.json"
    if marker.exists():
        other = json.loads(marker.read_text())
        differing = [key for key in own if other.get(key) != own[key]]
        if differing:
            values = ", ".join(f"{key}={other.get(key)} there, {own[key]} here" for key in differing[:2])
            raise GocError(f"{folder}: holds a run of another config ({values}); choose another hydra.run.dir")
    else:
        write_json(marker, own)


def price(model: DiT, method: Method, config: Config, samples: SampleSet, uncached: SampleSet) -> dict[str, Any]:
    """MACs, latency and memory of a run; latencies are medians over shards, of the sampling loop alone."""
    guided = config.cfg_scale != 1.0
    macs = image_macs(model, method.mask, guided)
    full = image_macs(model, torch.zeros_like(method.mask), guided)

    def milliseconds(measured: SampleSet) -> float:
        per_image = [shard["seconds"] / shard["samples"] for shard in measured.measured()]
        return 1000 * torch.tensor(per_image).median().item()

    own, reference = milliseconds(samples), milliseconds(uncached)
    shards = list(samples.measured())
    peaks = {key: max(shard[key] for shard in shards) for key in shards[0] if key.startswith("peak_")}
    return {
        "cache_ratio": cache_ratio_of(method.mask),
        "gmacs_per_forward": forward_macs(model) / 1e9,
        "gmacs_per_image": macs / 1e9,
        "macs_saved": 1 - macs / full,
        "ms_per_image": own,
        "ms_per_image_uncached": reference,
        "latency_ratio": own / reference,
        **peaks,
    }


def describe_inflection(method: Method) -> dict[str, Any]:
    """Where the correction is off, and the alignment of each step if it was measured."""
    if method.correct is None and method.alignment is None:
        return {}
    described: dict[str, Any] = {}
    if method.correct is not None:
        cached = torch.tensor(cached_steps_of(method.mask), dtype=torch.long)
        off = cached[~method.correct[cached].flatten(1).any(dim=1)]
        described["uncorrected_steps"] = off.tolist()
    if method.alignment is not None:
        described["alignment"] = step_alignment(method.alignment).tolist()
    return described


def run(config: Config, folder: Path) -> dict[str, Any]:
    """Carry out one run in its folder and return its result; a finished run is only read back.

    Raises GocError for problems the user can solve. A stopped run goes on where it was when it is started again.
    """
    validate(config)
    model = load_model(config)
    model_sha256 = file_sha256(resolve(config.model.checkpoint))
    result = read_result(folder)
    if result is None or result["config"] != asdict(config) or result["model_sha256"] != model_sha256:
        carry_out(config, folder, model, model_sha256)
        result = read_result(folder)
        assert result is not None
    return result


def carry_out(config: Config, folder: Path, model: DiT, model_sha256: str) -> None:
    """Make what is missing of a run, and write its result and pictures."""
    device = choose_device(config.device)
    extractor = load_extractor(config.model.extractor, device)
    reference = load_reference(resolve(config.model.reference))
    claim_folder(folder, {**identity(config), "model_sha256": model_sha256})

    generation = Generation(
        model=model.to(device),
        schedule=NoiseSchedule.respaced(config.steps),
        sampler="ddim" if config.sampler == "ddim" else "ddpm",
        cfg_scale=config.cfg_scale,
        cfg_channels=config.cfg_channels,
        seed=config.seed,
        decode=decode_pixels,
        device=device,
    )
    key = sampling_key(config, model_sha256)
    method = build_method(config, model.depth, lambda: calibrate(config, generation, key))
    samples = uncached = uncached_samples(config, generation, key)
    if method.mask.any():
        samples = SampleSet(folder / "samples", config.num_samples, config.batch_size)
        cached = replace(
            generation,
            new_cache=lambda: new_cache(config, method),
            method=label(config),
            divergence_hint=config.predictor.divergence_hint,
        )
        generate(cached, samples, label(config))

    result = {
        "method": label(config),
        "config": asdict(config),
        "metrics": evaluate(config.metrics, extract(samples.images(), extractor, device), reference),
        "distance": distance(zip(samples, uncached, strict=True)) if samples is not uncached else {},
        "cost": price(model, method, config, samples, uncached),
        "cached_steps": cached_steps_of(method.mask),
        "inflection": describe_inflection(method),
        "model_sha256": model_sha256,
        "software": software(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }
    first = next(samples.images())[:GRID_SAMPLES]
    image_grid(first, columns=8).save(folder / "samples.png")
    if method.alignment is not None:
        plot_alignment(result, folder / "alignment.png")
    write_json(folder / RESULT_FILE, result)


def new_cache(config: Config, method: Method) -> FeatureCache:
    """A cache with empty state for one batch."""
    return FeatureCache(method.mask, config.predictor.build(method.mask, config.gradient_weights or [], method.correct))
