"""One run, from a config to result.json: build, calibrate, generate, evaluate, price, write."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from goc.caching.cost import forward_macs, image_macs
from goc.config import Config, identity, label, validate
from goc.diffusion import NoiseSchedule
from goc.errors import ConfigError, GocError
from goc.evaluate import distance, evaluate, extract, load_extractor, load_reference
from goc.files import file_sha256, resolve, write_json
from goc.generate import Generation, SampleSet, generate, side_by_side
from goc.images import image_grid
from goc.models.checkpoint import load_weights
from goc.models.decoder import decode_pixels
from goc.models.dit import DiT
from goc.plan import Plan, make_plan, shared_path
from goc.report import plot_alignment
from goc.results import RESULT_FILE, git_commit, read_result, software

GRID_SAMPLES = 64


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


def uncached_generation(
    config: Config, model: DiT, model_sha256: str, device: torch.device
) -> tuple[Generation, dict[str, Any]]:
    """The config's generation without a cache, and all that its trajectories depend on apart from the seeds."""
    generation = Generation(
        model=model,
        schedule=NoiseSchedule.respaced(config.steps),
        sampler="ddim" if config.sampler == "ddim" else "ddpm",
        cfg_scale=config.cfg_scale,
        cfg_channels=config.cfg_channels,
        seed=config.seed,
        decode=decode_pixels,
        device=device,
    )
    keys = ("sampler", "steps", "cfg_scale", "cfg_channels", "batch_size")
    own = {key: getattr(config, key) for key in keys}
    return generation, {"weights": model_sha256, "num_heads": config.model.num_heads, **own}


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


def price(config: Config, plan: Plan, model: DiT, samples: SampleSet) -> dict[str, Any]:
    """MACs and memory of a run, from what its shards measured: what really ran, on average over the samples."""
    shards = list(samples.measured())

    def average(key: str) -> float:
        return sum(shard[key] * shard["samples"] for shard in shards) / config.num_samples

    macs, full = average("macs_per_image"), image_macs(model, plan.nothing_cached, config.cfg_scale != 1.0, plan.site)
    return {
        "cache_ratio": average("cache_ratio"),
        "gmacs_per_forward": forward_macs(model) / 1e9,
        "gmacs_per_image": macs / 1e9,
        "macs_saved": 1 - macs / full,
        **{key: max(shard[key] for shard in shards) for key in shards[0] if key.startswith("peak_")},
    }


def latency(config: Config, cached: Generation, uncached: Generation) -> dict[str, float | None]:
    """Milliseconds per image of the sampling loop in full batches, cached and uncached side by side."""
    if config.latency_repeats == 0:
        return {"ms_per_image": None, "ms_per_image_uncached": None, "latency_ratio": None}
    samples = min(config.batch_size, config.num_samples)
    own, reference = side_by_side([cached, uncached], samples, config.latency_repeats)
    return {"ms_per_image": 1000 * own, "ms_per_image_uncached": 1000 * reference, "latency_ratio": own / reference}


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

    generation, key = uncached_generation(config, model.to(device), model_sha256, device)
    plan = make_plan(config, generation, key)
    samples = uncached = uncached_samples(config, generation, key)
    cached = generation
    if plan.mask.any():
        samples = SampleSet(folder / "samples", config.num_samples, config.batch_size)
        cached = replace(
            generation,
            new_cache=plan.new_cache,
            method=label(config),
            divergence_hint=config.predictor.divergence_hint,
        )
        generate(cached, samples, label(config))

    result = {
        "method": label(config),
        "config": asdict(config),
        "metrics": evaluate(config.metrics, extract(samples.images(), extractor, device), reference),
        "distance": distance(zip(samples, uncached, strict=True)) if samples is not uncached else {},
        "cost": {**price(config, plan, model, samples), **latency(config, cached, generation)},
        **plan.describe(),
        "model_sha256": model_sha256,
        "software": software(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }
    first = next(samples.images())[:GRID_SAMPLES]
    image_grid(first, columns=8).save(folder / "samples.png")
    if plan.alignment is not None:
        plot_alignment(result, folder / "alignment.png")
    write_json(folder / RESULT_FILE, result)
