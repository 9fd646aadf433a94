"""The typed configuration: every key with its help text, its validation, and the name of a run's folder."""

import math
import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from goc.device import PRECISIONS
from goc.diffusion import TRAINING_STEPS
from goc.errors import ConfigError
from goc.evaluate import METRICS
from goc.features import EXTRACTORS
from goc.files import content_key
from goc.methods import (
    L2C,
    PREDICTORS,
    PUBLISHED,
    SCHEDULES,
    GradientQueueConfig,
    NoCaching,
    PredictorConfig,
    ReuseConfig,
    ScheduleConfig,
)

CONF = Path(__file__).parent.parent / "conf"

SAMPLERS = ("ddim", "ddpm")
INFLECTION_SCOPES = ("step", "cell")
SITES = ("branch", "stack")
CLOCKS = ("step", "logsnr")
SAVE_IMAGES = ("none", "png", "npz")
TRACKERS = ("none", "csv", "wandb")
WANDB_MODES = ("online", "offline")
DEFAULT_GRADIENT_WEIGHTS = [1.0]

# keys that change nothing in a run's folder
TRACKING = ("tracker", "wandb")

# keys that do not change what a run computes, only where things are kept and how it is run
NOT_IDENTITY = (
    "name",
    "smoke",
    "cache_dir",
    "device",
    "deterministic",
    "threads",
    "worker_timeout_s",
    "metrics",
    "save_images",
    "distance_samples",
    "latency_repeats",
    *TRACKING,
)


def _key(default: Any, text: str) -> Any:
    """A config field with its help text."""
    metadata = {"help": text}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    """A denoiser, its weights, and the real data its images are compared with."""

    name: str = _key(MISSING, "name in tables")
    input_size: int = _key(MISSING, "side of the input in latent pixels")
    patch_size: int = _key(MISSING, "side of a patch in latent pixels")
    in_channels: int = _key(MISSING, "latent channels")
    hidden_size: int = _key(MISSING, "width of the residual stream")
    depth: int = _key(MISSING, "number of blocks")
    num_heads: int = _key(MISSING, "attention heads")
    num_classes: int = _key(MISSING, "class labels (the null label comes on top)")
    checkpoint: str = _key(MISSING, "weights: .safetensors or .pt, or asset:PATH for a shipped file")
    routers: str | None = _key(None, "its Learning-to-Cache routers: a path with {sampler} and {steps} in it")
    extractor: str = _key(MISSING, f"feature extractor of the metrics: {', '.join(EXTRACTORS)}")
    extractor_weights: str | None = _key(None, "its weights file; null: the shipped or published one")
    reference: str = _key(
        MISSING, "the real images: ADM's .npz, a folder of images, or saved statistics (.safetensors)"
    )


@dataclass
class WandbConfig:
    """Where and how tracker=wandb logs."""

    project: str = _key("goc", "Weights & Biases project")
    entity: str | None = _key(None, "its user or team; null: your default one")
    group: str | None = _key(None, "group of the runs; null: the study's name")
    mode: str | None = _key(
        None, f"one of {', '.join(WANDB_MODES)}; null: WANDB_MODE, or else online where you are logged in"
    )
    timeout_s: float = _key(120.0, "seconds to log a run or a summary in; a run never waits longer for a server")


@dataclass
class Config:
    """One run: a model, a sampler and a caching method; knobs first."""

    cache_ratio: float | None = _key(0.5, "share of branch features to reuse instead of computing, in [0, 1)")
    gradient_weights: list[float] | None = _key(
        None, "gradient queue w_1, w_2, ..., newest gradient first; [] is plain reuse; null: [1.0] with GOC"
    )
    inflection_threshold: float | None = _key(
        0.0, "no correction at steps whose gradient alignment (-1..1) is below this; null: correct everywhere"
    )
    inflection_scope: str = _key("step", "step: gate whole steps (published); cell: each block and branch by itself")
    correct_steps: list[int] | None = _key(None, "steps to correct at, e.g. [3,5,7,9]; overrides the threshold")
    site: str = _key(
        "branch", "branch: cache each block's attention and MLP; stack: all blocks together, one cell a step"
    )
    clock: str = _key("step", "what changes are taken against: step (published) or logsnr")
    num_samples: int = _key(1000, "images to generate and score; the paper's tables use 50000")
    steps: int = _key(20, f"sampling steps T, 2 to {TRAINING_STEPS}")
    sampler: str = _key("ddim", f"one of {', '.join(SAMPLERS)}")
    cfg_scale: float = _key(1.0, "classifier-free guidance; 1.0 computes no unconditional half; the paper uses 1.5")
    cfg_channels: int = _key(3, "guide this many channels of the noise estimate (the published protocol: 3)")
    seed: int = _key(0, "sample i depends only on (seed, i)")
    metrics: list[str] = _key(["isc", "fid", "kid", "prc"], f"any of {', '.join(METRICS)}")
    vae: str | None = _key(
        None, "decoder of a latent-space model: ema, mse, a folder or a hub repository; null: pixel space"
    )
    vae_batch_size: int = _key(8, "latents decoded together")
    batch_size: int = _key(250, "images sampled together, and per shard on disk")
    distance_samples: int | None = _key(
        None, "samples (whole shards) also made without a cache, to measure the distance; null: all; 0: none"
    )
    save_images: str = _key("none", f"one of {', '.join(SAVE_IMAGES)}: images/*.png, or one images.npz (arr_0)")
    calibration_samples: int = _key(64, "images of the uncached run that finds the inflections")
    calibration_seed: int = _key(2503, "their seed")
    latency_repeats: int = _key(3, "times that cached and uncached sampling are timed side by side; 0: not at all")
    device: str = _key("auto", "auto, cpu, cuda, cuda:1; with several workers cuda is each one's own GPU")
    precision: str = _key("fp32", f"of the denoiser: one of {', '.join(PRECISIONS)}")
    compile: bool = _key(False, "compile the blocks' branches with torch.compile")
    deterministic: bool = _key(False, "refuse operations that have no deterministic algorithm (GPUs)")
    threads: int | None = _key(None, "CPU threads of each process; null: torch's choice")
    worker_timeout_s: float = _key(600.0, "seconds that workers (torchrun, srun) wait for each other at the start")
    name: str = _key("runs", "study: runs go to outputs/NAME/, and are reported together")
    smoke: bool | None = _key(None, "true: the digits and a few samples instead of what an experiment asks for")
    cache_dir: str = _key("outputs/cache", "uncached samples and calibrations, shared between runs")
    tracker: str = _key(
        "none", f"one of {', '.join(TRACKERS)}: log finished runs to outputs/NAME/tracked.csv, or to Weights & Biases"
    )
    wandb: WandbConfig = field(default_factory=WandbConfig)
    model: ModelConfig = _key(MISSING, "group: the denoiser")
    schedule: ScheduleConfig = _key(MISSING, "group: when a feature is reused")
    predictor: PredictorConfig = _key(MISSING, "group: what stands in for it")


def from_hydra(node: DictConfig) -> Config:
    """The typed, normalised config of a Hydra config (which may hold Hydra's own node beside it)."""
    own = OmegaConf.masked_copy(node, [f.name for f in fields(Config)])
    settings = [OmegaConf.structured(Config), own]
    if node.smoke:
        model = OmegaConf.load(CONF / "model" / "digits.yaml")
        settings += [OmegaConf.load(CONF / "smoke.yaml"), {"model": model, "name": f"{node.name}-smoke"}]
    config = OmegaConf.to_object(OmegaConf.merge(*settings))
    assert isinstance(config, Config)
    return normalised(config)


def normalised(config: Config) -> Config:
    """Settle what one setting implies for another, so that equal runs have equal configs. Changes the argument."""
    if config.schedule.name == "none" or (config.cache_ratio == 0 and config.schedule.follows_ratio()):
        config.schedule, config.predictor, config.gradient_weights = NoCaching(), ReuseConfig(), []
        config.site = "branch"
    if not config.schedule.follows_ratio():
        config.cache_ratio = None
    if config.gradient_weights is None:
        queue = isinstance(config.predictor, GradientQueueConfig)
        config.gradient_weights = list(DEFAULT_GRADIENT_WEIGHTS) if queue else []
    if isinstance(config.predictor, GradientQueueConfig) and not config.gradient_weights:
        config.predictor = ReuseConfig()
    elif config.gradient_weights and isinstance(config.predictor, ReuseConfig):
        config.predictor = GradientQueueConfig()
    if isinstance(config.predictor, GradientQueueConfig) and config.predictor.correct_scope is None:
        config.predictor.correct_scope = "block" if isinstance(config.schedule, L2C) else "branch"
    unused: list[str] = []
    if isinstance(config.predictor, ReuseConfig):
        unused.append("clock")
    if not isinstance(config.predictor, GradientQueueConfig):
        config.correct_steps = config.inflection_threshold = None
    if config.correct_steps is not None:
        config.inflection_threshold = None
    if config.inflection_threshold is None:
        unused.append("inflection_scope")
        if not config.schedule.calibrates():
            unused += ["calibration_samples", "calibration_seed"]
    defaults = {f.name: f.default for f in fields(Config)}
    for key in unused:
        setattr(config, key, defaults[key])
    return config


def validate(config: Config) -> None:
    """Raise ConfigError on the first setting that cannot be run: key, value, what is allowed."""

    def require(condition: bool, key: str, allowed: str) -> None:
        if not condition:
            raise ConfigError(f"{key}={operator.attrgetter(key)(config)}: must be {allowed}")

    if config.schedule.follows_ratio():
        require(config.cache_ratio is not None and 0 <= config.cache_ratio < 1, "cache_ratio", "in [0, 1)")
    require(2 <= config.steps <= TRAINING_STEPS, "steps", f"in [2, {TRAINING_STEPS}]")
    require(config.sampler in SAMPLERS, "sampler", f"one of {', '.join(SAMPLERS)}")
    require(config.inflection_scope in INFLECTION_SCOPES, "inflection_scope", f"one of {', '.join(INFLECTION_SCOPES)}")
    require(config.site in SITES, "site", f"one of {', '.join(SITES)}")
    require(config.clock in CLOCKS, "clock", f"one of {', '.join(CLOCKS)}")
    require(config.save_images in SAVE_IMAGES, "save_images", f"one of {', '.join(SAVE_IMAGES)}")
    require(config.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
    require(config.vae_batch_size >= 1, "vae_batch_size", "at least 1")
    require((config.distance_samples or 0) >= 0, "distance_samples", "at least 0, or null")
    require(config.threads is None or config.threads >= 1, "threads", "at least 1, or null")
    require(config.worker_timeout_s > 0, "worker_timeout_s", "more than 0")
    require(config.tracker in TRACKERS, "tracker", f"one of {', '.join(TRACKERS)}")
    require(config.wandb.mode in (None, *WANDB_MODES), "wandb.mode", f"one of {', '.join(WANDB_MODES)}, or null")
    require(config.wandb.timeout_s > 0, "wandb.timeout_s", "more than 0")
    if config.vae is None and config.model.in_channels not in (1, 3):
        raise ConfigError(
            f"vae=null: {config.model.name} makes latents of {config.model.in_channels} channels, which only a vae "
            "turns into images: ema, mse, a folder, or a hub repository"
        )
    if not isinstance(config.predictor, GradientQueueConfig):
        require(not config.gradient_weights, "gradient_weights", f"empty with predictor={config.predictor.name}")
    require(all(map(math.isfinite, config.gradient_weights or [])), "gradient_weights", "finite numbers")
    last = config.steps - 1
    require(
        all(1 <= step <= last for step in config.correct_steps or []),
        "correct_steps",
        f"steps in [1, {last}] (0 is the noisiest step and never cached)",
    )
    require(config.num_samples >= 1, "num_samples", "at least 1")
    require(config.batch_size >= 1, "batch_size", "at least 1")
    require(config.calibration_samples >= 1, "calibration_samples", "at least 1")
    require(config.latency_repeats >= 0, "latency_repeats", "at least 0")
    require(config.seed >= 0, "seed", "at least 0")
    require(config.calibration_seed >= 0, "calibration_seed", "at least 0")
    require(math.isfinite(config.cfg_scale), "cfg_scale", "a finite number")
    require(config.cfg_channels >= 1, "cfg_channels", "at least 1")
    for metric in config.metrics:
        if metric not in METRICS:
            raise ConfigError(f"metrics={metric}: must be one of {', '.join(METRICS)}")
        if config.num_samples < METRICS[metric].minimum_samples:
            raise ConfigError(
                f"num_samples={config.num_samples}: must be at least {METRICS[metric].minimum_samples} "
                f"for the metric {metric} (or leave it out of metrics)"
            )
    require(config.model.hidden_size % config.model.num_heads == 0, "model.hidden_size", "a multiple of num_heads")
    require(config.model.input_size % config.model.patch_size == 0, "model.input_size", "a multiple of patch_size")


def identity(config: Config) -> dict[str, Any]:
    """The part of a config that decides which images a run makes, as plain values."""
    return {key: value for key, value in asdict(config).items() if key not in NOT_IDENTITY}


def label(config: Config) -> str:
    """Name of a run's method in tables: the published one, or else its schedule and its predictor."""
    parts = config.schedule.name, config.predictor.name, config.site, config.clock
    return PUBLISHED.get(parts, "+".join(parts).removesuffix("+step").removesuffix("+branch"))


def run_id(config: Config) -> str:
    """Folder name of a run: readable, and different for every config that makes other images."""
    ratio = "" if config.cache_ratio is None else f"-r{config.cache_ratio:g}"
    return f"{label(config)}-{config.sampler}{config.steps}{ratio}-{content_key(identity(config))[:8]}"


def _help_rows(cls: type, prefix: str = "") -> Iterator[str]:
    for f in fields(cls):
        text = f.metadata.get("help")
        if text is None or (prefix == "" and is_dataclass(f.type)):
            continue
        default = f.default if f.default_factory is not None and not callable(f.default_factory) else None
        if callable(f.default_factory):
            default = f.default_factory()
        shown = "" if default is MISSING else f"  [{'null' if default is None else default}]"
        yield f"  {prefix + f.name:<26}{text}{shown}"


def help_template() -> str:
    """What `python run.py --help` prints; $APP_CONFIG_GROUPS and $CONFIG are Hydra's."""
    knobs = "\n".join(_help_rows(Config)).replace("$", "\\$")
    model = "\n".join(_help_rows(ModelConfig, "model."))
    wandb = "\n".join(_help_rows(WandbConfig, "wandb."))
    return f"""Benchmark a feature cache on a diffusion transformer: generate images, score them, price them.

  python run.py                                    one run with the defaults
  python run.py cache_ratio=0.25 steps=50          another point
  python run.py -m method=reuse,goc cache_ratio=0.25,0.5,0.75   a sweep (-m): every combination

== Settings (key=value) and their defaults ==
{knobs}

== Groups (group=option) ==
$APP_CONFIG_GROUPS
  method=... is a published combination of schedule and predictor.

== The model group's keys ==
{model}

== With tracker=wandb ==
{wandb}

== The configuration as it stands ==
$CONFIG
"""


def register() -> None:
    """Make the config known to Hydra: schema, groups, help page, and the resolvers of folder names."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, schedule in SCHEDULES.items():
        store.store(group="schedule", name=name, node=schedule)
    for name, predictor in PREDICTORS.items():
        store.store(group="predictor", name=name, node=predictor)
    store.store(
        group="hydra/help",
        name="goc",
        node={"app_name": "run.py", "header": "", "footer": "", "template": help_template()},
    )
    OmegaConf.register_new_resolver("run_id", lambda *, _root_: run_id(from_hydra(_root_)), replace=True)
    OmegaConf.register_new_resolver("study", lambda *, _root_: from_hydra(_root_).name, replace=True)
