"""Every setting with its help text, in four parts by what it means: measurement, way, execution, output."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from goc.methods import PredictorConfig, ScheduleConfig, SelectionConfig
from goc.metrics.registry import METRICS, NAMED, extractor_kind
from goc.models.objective import OBJECTIVES, PIPELINE
from goc.sampling.noise import TRAINING_STEPS
from goc.sampling.options import SamplerConfig
from goc.system.plugins import source_of
from goc.system.precision import PRECISIONS

INFLECTION_SCOPES = ("step", "cell")
INFLECTION_SIGNALS = ("step", "span")
SITES = ("branch", "stack")
CLOCKS = ("step", "logsnr")
CFG_CACHE_PREDICTORS = ("reuse", "linear")
OF_CFG_CACHE = ("cfg_cache", "cfg_cache_predictor", "cfg_cache_start")
OF_GUIDANCE = ("guidance_interval", *OF_CFG_CACHE)  # settings by which a way saves guidance
SAVE_IMAGES = ("none", "png", "npz")
TRACKERS = ("none", "csv", "wandb")
WANDB_MODES = ("online", "offline")
CONVERGED_SAMPLES = 128
# keys of a pipeline of diffusers, which no denoiser of this project has
OF_SECOND = ("second_extractor", "second_extractor_weights", "second_reference")  # keys of a second opinion
OF_PIPELINES = {"measurement": ("prompts",), "model": ("pipeline", "call", "clip", "blip")}
SHAPE = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")
OF_ANY_NETWORK = ("input_size", "in_channels", "num_classes")  # of the shape; the rest is DiT's
LEFT_OPEN = ("num_heads", "num_classes")  # of these, what weights do not tell or may not tell
# and those of a denoiser, which no pipeline has
OF_DENOISERS = {
    "measurement": ("cfg_channels", "vae", "vae_batch_size", "class_labels"),
    "model": ("network", *SHAPE, "checkpoint", "routers", "schedules", "weights", "fronts"),
}


def _key(default: Any, text: str) -> Any:
    """A setting with its help text."""
    metadata = {"help": text}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    """A denoiser, its weights, and the real data its images are compared with."""

    name: str = _key(MISSING, "name in tables")
    objective: str = _key(
        "diffusion", f"what it was trained for: {' or '.join(OBJECTIVES)}; {PIPELINE}: one of diffusers"
    )
    family: str | None = _key(None, "models that differ in their training seed alone share it: reports average them")
    network: str | None = _key(None, "module:class of a network of your own (goc.plugin.Network); null: DiT")
    input_size: int = _key(
        MISSING, "side of the input in latent pixels; 0, also for the rest of its shape: as in the file"
    )
    patch_size: int = _key(MISSING, "side of a patch in latent pixels")
    in_channels: int = _key(MISSING, "latent channels")
    hidden_size: int = _key(MISSING, "width of the residual stream")
    depth: int = _key(MISSING, "number of blocks")
    num_heads: int = _key(MISSING, "attention heads")
    num_classes: int = _key(MISSING, "class labels (the null label comes on top)")
    checkpoint: str = _key(MISSING, "weights: .safetensors or .pt, or asset:PATH for a shipped file")
    routers: str | None = _key(None, "its Learning-to-Cache routers: a path with {sampler} and {steps} in it")
    schedules: str | None = _key(
        None,
        "its searched schedules, taken where the same search would be made: a path with {model}, {sampler}, {steps} "
        "and {computed}",
    )
    weights: str | None = _key(
        None, "its weights for predictor=learned: a path with {model}, {sampler}, {steps}, {computed}, {cfg_scale}"
    )
    fronts: str | None = _key(
        None,
        "its fronts, for schedule=front where outputs/fronts has none: a path with {model}, {sampler}, {steps}, "
        "{cfg_scale}",
    )
    pipeline: str | None = _key(None, "model=pipeline: a folder in diffusers' format, or its name on the hub")
    call: dict[str, Any] = _key({}, "model=pipeline: more arguments of its call, as +model.call.height=512")
    clip: str | None = _key(None, "model=pipeline: the CLIP of metrics=[clip,clip_iqa], a folder or a name on the hub")
    blip: str | None = _key(None, "model=pipeline: the BLIP of metrics=[blip_itm], a folder or a name on the hub")
    extractor: str | None = _key(
        MISSING, f"feature extractor of the metrics: {', '.join(NAMED)}; null with a pipeline: none"
    )
    extractor_weights: str | None = _key(None, "its weights file; null: the shipped or published one")
    second_extractor: str | None = _key(
        None,
        "the one of metrics=[fd_dinov2,fd_second,...]; null: beside inception dinov2, beside an embedded one its own",
    )
    second_extractor_weights: str | None = _key(None, "its weights file; null: the shipped or published one")
    second_reference: str | None = _key(
        None, "the real images for it, as model.reference, or EDM2's .pkl; null: the shipped ones, or model.reference"
    )
    reference: str | None = _key(
        MISSING,
        "the real images: ADM's .npz, a folder of images, or saved statistics (.safetensors); null with a pipeline: "
        "none",
    )

    def shape(self) -> dict[str, int]:
        """The arguments of DiT, or of a network of a plugin."""
        return {name: getattr(self, name) for name in SHAPE}

    def second(self) -> tuple[str | None, str | None]:
        """The second extractor, and the real images for it, as they are named or follow from the first ones.

        Raises ConfigError for a name that no extractor has.
        """
        first = None if self.extractor is None else extractor_kind(self.extractor)
        name = self.second_extractor or (None if first is None else first.second)
        kind = None if name is None else extractor_kind(name, "model.second_extractor")
        reference = self.reference
        if kind is not None and first is not None and reference is not None and reference == first.reference:
            reference = kind.reference or reference
        return name, self.second_reference or reference

    @property
    def network_source(self) -> str | None:
        """What a network of a plugin is known by: the version and the sources of its package."""
        return None if self.network is None else source_of(self.network.partition(":")[0].partition(".")[0])

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a pipeline of diffusers, and not a denoiser of this project."""
        return self.objective == PIPELINE


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
class Way:
    """How the budget is spent: a sampler and a caching method, and what they depend on."""

    cache_ratio: float | None = _key(0.5, "share of branch features to reuse instead of computing, in [0, 1)")
    gradient_weights: list[float] | None = _key(
        None, "gradient queue w_1, w_2, ..., newest gradient first; [] is plain reuse; null: [1.0] with GOC"
    )
    inflection_threshold: float | None = _key(
        0.0, "no correction at steps whose gradient alignment (-1..1) is below this; null: correct everywhere"
    )
    inflection_signal: str = _key(
        "step", "step: alignment of a step's own change (published); span: over the distance that a prediction spans"
    )
    inflection_scope: str = _key("step", "step: gate whole steps (published); cell: each block and branch by itself")
    correct_steps: list[int] | None = _key(None, "steps to correct at, e.g. [3,5,7,9]; overrides the threshold")
    site: str = _key(
        "branch", "branch: cache each block's attention and MLP; stack: all blocks together, one cell a step"
    )
    clock: str = _key("step", "what changes are taken against: step (published) or logsnr")
    steps: int = _key(20, f"sampling steps T, at most {TRAINING_STEPS}")
    evaluations: int | None = _key(None, "network evaluations instead of steps (heun and midpoint have two a step)")
    sampler: SamplerConfig = _key(MISSING, "group: the solver")
    batch_size: int = _key(250, "images sampled together, and per shard on disk")
    calibration_samples: int = _key(64, "images of the uncached run that finds the inflections")
    calibration_seed: int = _key(2503, "their seed")
    guidance_interval: list[float] | None = _key(
        None,
        "[lo,hi]: guidance only at noise levels lo < sigma <= hi, elsewhere no unconditional half is computed; sigma: "
        "noise over signal, x = alpha (x0 + sigma n), with flow matching (1 - t) / t; null: everywhere",
    )
    cfg_cache: float | None = _key(
        None,
        "share of the computed guided evaluations that compute the conditional half alone, and predict its difference "
        "to the other, in [0, 1); null: none",
    )
    cfg_cache_predictor: str = _key(
        "reuse", "what that difference is predicted by: reuse, or linear in the last two computed ones"
    )
    cfg_cache_start: int = _key(1, "so many guided evaluations compute both halves before the first that does not")
    schedule: ScheduleConfig = _key(MISSING, "group: when a feature is reused")
    predictor: PredictorConfig = _key(MISSING, "group: what stands in for it")
    selection: SelectionConfig = field(
        default_factory=SelectionConfig,
        metadata={"help": "group: which tokens of a cached MLP are computed after all"},
    )

    @property
    def num_evaluations(self) -> int:
        """How often the network is evaluated without a cache: the first axis of a mask."""
        return self.steps * self.sampler.evaluations_per_step

    @property
    def calibrates(self) -> bool:
        """Whether its schedule or its predictor comes from a calibration run."""
        return self.schedule.calibrates() or self.predictor.calibrates

    @property
    def guidance(self) -> dict[str, Any]:
        """What it saves of guidance, by its settings; empty: nothing."""
        unused = {*(() if self.cfg_cache else OF_CFG_CACHE)}
        if self.guidance_interval is None:
            unused.add("guidance_interval")
        return {key: getattr(self, key) for key in OF_GUIDANCE if key not in unused}


@dataclass
class Measurement:
    """What runs must share for their quality to be compared."""

    num_samples: int = _key(1000, "images to generate and score; the paper's tables use 50000")
    cfg_scale: float = _key(1.0, "classifier-free guidance; 1.0 computes no unconditional half; the paper uses 1.5")
    cfg_channels: int = _key(3, "guide this many channels of the noise estimate (the published protocol: 3)")
    seed: int = _key(0, "sample i depends only on (seed, i)")
    class_labels: Any = _key(
        "uniform",
        "uniform: each sample draws its class; balanced: as many of each; [207,360], or a text file with a label a "
        "line: sample i has label i, counted round",
    )
    precision: str = _key("fp32", f"of the denoiser: one of {', '.join(PRECISIONS)}")
    vae: str | None = _key(
        None, "decoder of a latent-space model: ema, mse, a folder or a hub repository; null: pixel space"
    )
    vae_batch_size: int = _key(8, "latents decoded together")
    prompts: str | None = _key(
        None, "model=pipeline: a text file, a prompt a line; sample i has prompt i, counted round"
    )
    model: ModelConfig = _key(MISSING, "group: the denoiser")


@dataclass
class Execution:
    """Where and how a run computes, and how long it times; its images are the same up to rounding."""

    device: str = _key("auto", "auto, cpu, cuda, cuda:1; with several workers cuda is each one's own GPU")
    compile: Any = _key(
        "auto",
        "compile the blocks' branches with torch.compile; of a pipeline the blocks; auto: on a GPU for long runs",
    )
    graphs: Any = _key("auto", "launch a denoiser's steps as CUDA graphs; auto: on a GPU, for many small batches")
    offload: str | None = _key(None, "model: parts of a pipeline are on the GPU only while they work (diffusers)")
    deterministic: bool = _key(False, "refuse operations that have no deterministic algorithm (GPUs)")
    threads: int | None = _key(None, "CPU threads of each process; null: torch's choice")
    worker_timeout_s: float = _key(600.0, "seconds that workers (torchrun, srun) wait for each other at the start")
    plugins: list[str] = _key(
        [], "modules with methods and metrics of your own, imported in every process; installed ones are found"
    )
    latency_repeats: int = _key(3, "times that cached and uncached sampling are timed side by side; 0: not at all")


@dataclass
class Output:
    """What is said of the samples, and where it is left."""

    metrics: list[str] = _key(["isc", "fid", "kid", "prc"], f"any of {', '.join(METRICS)}")
    distance_samples: int | None = _key(
        None, "samples (whole shards) also made without a cache, to measure the distance; null: all; 0: none"
    )
    converged_samples: int | None = _key(
        None,
        f"samples whose distance to the converged solution is measured; null: {CONVERGED_SAMPLES} (ddpm: 0); 0: none",
    )
    save_images: str = _key("none", f"one of {', '.join(SAVE_IMAGES)}: images/*.png, or one images.npz (arr_0)")
    name: str = _key("runs", "study: runs go to outputs/NAME/, and are reported together")
    smoke: bool | None = _key(None, "true: the digits and a few samples instead of what an experiment asks for")
    cache_dir: str = _key("outputs/cache", "uncached samples and calibrations, shared between runs")
    tracker: str = _key(
        "none", f"one of {', '.join(TRACKERS)}: log finished runs to outputs/NAME/tracked.csv, or to Weights & Biases"
    )
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class Settings(Output, Execution, Measurement, Way):
    """The settings as users type them: the keys of all parts side by side, those of the way first."""


@dataclass
class Config:
    """One run. Functions are handed the part they need.

    files: SHA-256 of each file that a setting of the way names, by the setting, as it was when the config was made.
    chosen: what a setting that was `auto` came to, and why, by the setting.
    """

    measurement: Measurement
    way: Way
    execution: Execution
    output: Output
    files: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
