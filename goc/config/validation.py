"""What settings imply for each other, and which cannot be run: one line with key, value, what is allowed."""

import math
import operator
import os
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from string import Formatter
from types import SimpleNamespace
from typing import Any

from goc.caching.ratio import computed_at
from goc.config.limits import (
    LARGEST_SEED,
    LARGEST_SHAPE,
    LONGEST_S,
    LONGEST_STUDY,
    LONGEST_WANDB_NAME,
    MOST_REPEATS,
    MOST_SAMPLES,
    MOST_THREADS,
    NOT_IN_WANDB_NAMES,
)
from goc.config.settings import (
    CFG_CACHE_PREDICTORS,
    CLOCKS,
    INFLECTION_SCOPES,
    INFLECTION_SIGNALS,
    OF_ANY_NETWORK,
    OF_CFG_CACHE,
    OF_PIPELINES,
    SAVE_IMAGES,
    SITES,
    TRACKERS,
    WANDB_MODES,
    Config,
    Execution,
    Measurement,
    ModelConfig,
    Output,
    WandbConfig,
    Way,
)
from goc.methods import PREDICTORS, SCHEDULES, SelectionConfig
from goc.methods.base import into_blocks
from goc.metrics.registry import METRICS, extractor_kind
from goc.models.objective import OBJECTIVES, PIPELINE
from goc.sampling.labels import BALANCED, UNIFORM, given_labels
from goc.sampling.noise import TRAINING_STEPS
from goc.sampling.options import fitting
from goc.system.errors import ConfigError
from goc.system.precision import LARGEST_WEIGHT, PRECISIONS

# arguments of a pipeline's call, as patterns, that settings of a run decide
OF_A_CALL = {
    "prompt": "prompts",
    "prompt_[2-9]": "prompts",
    "prompt_embeds*": "prompts",
    "prompt_attention_mask*": "prompts",
    "pooled_prompt_embeds": "prompts",
    "num_*_per_prompt": "num_samples",
    "generator": "seed",
    "latents": "seed",
    "seed": "seed",
    "num_inference_steps": "steps",
    "timesteps": "steps",
    "sigmas": "steps",
    "strength": "steps",
    "denoising_*": "steps",
    "guidance_scale": "cfg_scale",
    "guidance_schedule": "cfg_scale",
    "output_type": "the run",
    "return_dict": "the run",
    "callback*": "the run",
}
SECONDS = f"more than 0 and at most {LONGEST_S:g}"
TRAINED_WEIGHTS = "outputs/weights/{model}-{sampler}{steps}-{computed}-cfg{cfg_scale}.json"  # of goc train weights


def normalise(way: Way, measurement: Measurement | None = None) -> None:
    """Settle what one setting implies for another, so that equal runs have equal configs. Changes its arguments.

    Without a measurement, its model has no files.
    """
    each = way.sampler.evaluations_per_step
    if way.evaluations is not None and way.evaluations in evaluations_of(way):
        way.steps, way.evaluations = way.evaluations // each, None
    if not way.schedule.caches() or (way.cache_ratio == 0 and way.schedule.follows_ratio()):
        way.schedule, way.predictor, way.gradient_weights = SCHEDULES["none"](), PREDICTORS["reuse"](), []
        way.site = "branch"
    if measurement is not None:
        _settle_name(measurement.model)
        _settle_files(way, measurement)
    if not way.schedule.follows_ratio():
        way.cache_ratio = None
    if way.gradient_weights is None:
        way.gradient_weights = list(way.predictor.default_weights)
    way.predictor = way.predictor.settled(way.gradient_weights, way.schedule)
    unused: list[str] = []
    if not (way.predictor.against_clock or way.schedule.against_clock):
        unused.append("clock")
    if not way.predictor.queue:
        way.correct_steps = way.inflection_threshold = None
    if way.correct_steps is not None:
        way.inflection_threshold = None
    if way.inflection_threshold is None:
        unused += ["inflection_scope", "inflection_signal"]
        if not way.calibrates:
            unused += ["calibration_samples", "calibration_seed"]
    if not way.cfg_cache:
        unused += OF_CFG_CACHE
    defaults = {f.name: f.default for f in fields(Way)}
    for key in unused:
        setattr(way, key, defaults[key])


def _settle_name(model: ModelConfig) -> None:
    """Name a pipeline by the last part of its folder or repository, where it has no name of its own."""
    if model.pipeline is not None and model.name == PIPELINE:
        model.name = PurePath(model.pipeline).name


def _settle_files(way: Way, measurement: Measurement) -> None:
    """Name the files of a way; of learned weights, the schedule that they are for is taken unless another is named."""
    schedule, predictor = way.schedule, way.predictor
    model, cfg_scale = measurement.model, measurement.cfg_scale

    def filled(template: str) -> str:
        return fill(template, way, model.name, cfg_scale)

    schedule = schedule.with_shipped(filled, model.fronts).with_paths(filled)
    predictor = predictor.with_paths(filled, schedule.weights_file or model.weights or TRAINED_WEIGHTS)
    if predictor.schedule_file is not None:
        schedule = schedule.of_weights(predictor.schedule_file)
    way.schedule, way.predictor, way.sampler = schedule, predictor, way.sampler.with_paths(filled)


def evaluations_of(way: Way) -> range:
    """The numbers of evaluations that its sampler can have."""
    each = way.sampler.evaluations_per_step
    return range(way.sampler.fewest_steps * each, TRAINING_STEPS * each + 1, each)


def fill(template: str, way: Way, model: str, cfg_scale: float, computed: int | None = None) -> str:
    """A file's path from one with {model}, {sampler}, {steps}, {computed} or {cfg_scale} in it; raises ConfigError.

    computed: evaluations; None: as many as whole steps at the cache ratio leave.
    """
    if computed is None:
        computed = computed_at(way.cache_ratio or 0.0, way.num_evaluations)
    values = {
        "model": model,
        "sampler": way.sampler.name,
        "steps": str(way.steps),
        "computed": str(computed),
        "cfg_scale": f"{cfg_scale:g}",
    }
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        parts = [("", "", "", "")]  # unbalanced braces
    # nothing but a name in braces: a format or an attribute could ask for gigabytes, or for anything
    if any(name is not None and (name not in values or form or conversion) for _, name, form, conversion in parts):
        raise ConfigError(
            f"{template}: must be a path, in which {{model}}, {{sampler}}, {{steps}}, {{computed}} and {{cfg_scale}} "
            "may stand"
        )
    return "".join(text + values.get(name or "", "") for text, name, _, _ in parts)


def validate(config: Config) -> None:
    """Raise ConfigError on the first setting that cannot be run: key, value, what is allowed."""
    for part in (config.way, config.measurement, config.execution, config.output):
        _check_text(part)
    check_way(config.way)
    check_measurement(config.measurement)
    check_execution(config.execution)
    check_output(config.output, config.measurement.num_samples)
    check_scored(config.output.metrics, config.measurement)
    if config.measurement.model.is_pipeline:
        check_run_of_pipeline(config)
    else:
        check_tokens(config.way.selection, config.measurement.model)
        _require(config.execution, config.execution.offload is None, "offload", "null; model=pipeline has it")
    sampler, objective = config.way.sampler, config.measurement.model.objective
    if sampler.objective != objective:
        raise ConfigError(
            f"sampler={sampler.name}: must be one of {', '.join(fitting(objective))} "
            f"with model.objective={objective} ({config.measurement.model.name})"
        )
    check_guidance(config.way, config.measurement)
    if config.output.converged_samples and not sampler.deterministic:
        raise ConfigError(
            f"converged_samples={config.output.converged_samples}: must be 0 or null with "
            f"sampler={sampler.name}, as a stochastic sampler has no converged solution"
        )


def check_tokens(selection: SelectionConfig, model: ModelConfig) -> None:
    """Raise ConfigError for a selection that a denoiser has not the tokens for."""
    if model.network is None:
        selection.check_tokens((model.input_size // model.patch_size) ** 2)
    elif selection.selects:
        raise ConfigError(
            f"selection={selection.name}: must be none with model.network={model.network}, of which no tokens are "
            "computed alone"
        )


def check_guidance(way: Way, measurement: Measurement) -> None:
    """Raise ConfigError on the first setting that saves guidance where there is none to save, or not this way."""
    for key in way.guidance:
        allowed = f"null with model.objective={PIPELINE}, which guides itself"
        _require(way, not measurement.model.is_pipeline, key, allowed)
        _require(way, measurement.cfg_scale != 1, key, "null with cfg_scale=1, which computes no unconditional half")
        if way.predictor.trained:
            raise ConfigError(
                f"predictor={way.predictor.name}: not supported with {key}, as it is trained with full guidance"
            )
    if way.guidance_interval is not None:
        lo, hi = way.guidance_interval
        sigmas = [math.exp(-log_snr) for log_snr in way.sampler.solver(way.steps).grid.log_snr]
        visited = (
            f"[lo,hi] around at least one of the noise levels that {way.sampler.label(way.steps)} visits, "
            f"{min(sigmas):.3g} to {max(sigmas):.3g}"
        )
        _require(way, any(lo < sigma <= hi for sigma in sigmas), "guidance_interval", visited)


def check_full_guidance(way: Way) -> None:
    """Raise ConfigError where a way saves guidance, for what is trained with all of it."""
    for key in way.guidance:
        _require(way, False, key, "null here, as training is with full guidance")


def check_run_of_pipeline(config: Config) -> None:
    """Raise ConfigError on the first setting that no run of a pipeline can have."""
    why = f"with model.objective={PIPELINE}"
    for group, part in (("schedule", config.way.schedule), ("predictor", config.way.predictor)):
        if part.trained:
            raise ConfigError(f"{group}={part.name}: not supported {why}, as it is trained for a model")
    check_for_pipelines(config.way)
    _require(config.execution, not config.execution.graphs, "graphs", f"auto or false {why}")
    converged = f"0 or null {why}, whose scheduler's converged solution is not known"
    _require(config.output, not config.output.converged_samples, "converged_samples", converged)


def check_for_pipelines(way: Way) -> None:
    """Raise ConfigError for a method that a pipeline of diffusers cannot have, as it goes into its blocks."""
    if why := into_blocks(way.schedule):
        raise ConfigError(why)


def check_scored(metrics: list[str], measurement: Measurement) -> None:
    """Raise ConfigError for a metric whose files the settings do not name, or whose extractor cannot give it."""
    model = measurement.model
    for name in metrics:
        metric = METRICS[name]
        named: dict[str, Any] = {"extractor": model.extractor}
        if metric.score is not None:
            named = {metric.scorer: getattr(model, metric.scorer)} if metric.needs == "prompts" else {}
        elif metric.second:
            named = dict(zip(("second_extractor", "second_reference"), model.second(), strict=True))
        elif metric.compares:
            named["reference"] = model.reference
        if metric.needs == "prompts" and not model.is_pipeline:
            raise ConfigError(f"metrics={name}: not supported with {model.name}, which has no prompts")
        for key, value in named.items():
            if value is None:
                raise ConfigError(f"model.{key}=null: must be named for metrics=[{name}]")
        if metric.needs == "logits" and len(extractor_kind(named["extractor"]).layers) == 1:
            raise ConfigError(f"metrics={name}: not supported with model.extractor={model.extractor}: it has no logits")
        if metric.extractor not in (None, second := named.get("second_extractor")):
            raise ConfigError(
                f"metrics={name}: must be {name.replace(metric.extractor or '', 'second')} with "
                f"model.second_extractor={second}"
            )


def _check_text(part: Any, prefix: str = "") -> None:
    """Raise ConfigError for a text that no file can be named by."""
    for f in fields(part):
        value = getattr(part, f.name)
        if is_dataclass(value):
            _check_text(value, f"{prefix}{f.name}.")
        elif isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{prefix}{f.name}={value!r}: must be without a null character")


def _require(part: object, condition: bool, key: str, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{key}={operator.attrgetter(key)(part)}: must be {allowed}")


def _within(part: object, key: str, least: float, most: float) -> None:
    """More than `most` is no run that anybody waits for: its lists alone would take all memory."""
    value = operator.attrgetter(key)(part)
    _require(part, value >= least, key, f"at least {least:g}")
    _require(part, value <= most, key, f"at most {most}")


def _one_of(part: object, key: str, options: tuple[str, ...]) -> None:
    _require(part, operator.attrgetter(key)(part) in options, key, f"one of {', '.join(options)}")


def check_way(way: Way) -> None:
    """Raise ConfigError on the first setting of a way that cannot be run."""
    if way.schedule.follows_ratio():
        _require(way, way.cache_ratio is not None and 0 <= way.cache_ratio < 1, "cache_ratio", "in [0, 1)")
    sampler, fewest = way.sampler, way.sampler.fewest_steps
    if way.evaluations is not None:  # or it would have become steps
        possible = evaluations_of(way)
        which = f"a multiple of {possible.step} with sampler={sampler.name}, which has as many a step, and "
        within = f"in [{possible[0]}, {possible[-1]}]"
        raise ConfigError(f"evaluations={way.evaluations}: must be {which if possible.step > 1 else ''}{within}")
    _require(way, fewest <= way.steps <= TRAINING_STEPS, "steps", f"in [{fewest}, {TRAINING_STEPS}]")
    sampler.check()
    sampler.check_steps(way.steps)
    if sampler.evaluations_per_step > 1 and not way.schedule.several_evaluations:
        raise ConfigError(
            f"schedule={way.schedule.name}: not supported with sampler={sampler.name}, "
            f"which evaluates the network {sampler.evaluations_per_step} times a step"
        )
    if way.schedule.only_site not in (None, way.site):
        raise ConfigError(f"site={way.site}: must be {way.schedule.only_site} with schedule={way.schedule.name}")
    if way.schedule.decides and way.predictor.trained:
        raise ConfigError(
            f"predictor={way.predictor.name}: must have a schedule of fixed steps, which it is trained for, not "
            f"{way.schedule.name}"
        )
    if way.selection.selects:
        check_selection(way)
    if way.predictor.needs_probe and not hasattr(way.schedule, "first_blocks"):
        raise ConfigError(f"predictor={way.predictor.name}: must have schedule=dicache, not {way.schedule.name}")
    _one_of(way, "inflection_scope", INFLECTION_SCOPES)
    _one_of(way, "inflection_signal", INFLECTION_SIGNALS)
    _one_of(way, "site", SITES)
    _one_of(way, "clock", CLOCKS)
    threshold = way.inflection_threshold
    _require(way, threshold is None or math.isfinite(threshold), "inflection_threshold", "a finite number, or null")
    if not way.predictor.queue:
        _require(way, not way.gradient_weights, "gradient_weights", f"empty with predictor={way.predictor.name}")
    finite = all(abs(weight) <= LARGEST_WEIGHT for weight in way.gradient_weights or [])
    _require(way, finite, "gradient_weights", f"finite numbers of at most {LARGEST_WEIGHT:g}")
    last = way.num_evaluations - 1
    _require(
        way,
        all(1 <= step <= last for step in way.correct_steps or []),
        "correct_steps",
        f"steps in [1, {last}] (0 is the noisiest step and never cached)",
    )
    interval = way.guidance_interval
    rising = interval is None or (len(interval) == 2 and 0 <= interval[0] < interval[1] < math.inf)
    _require(way, rising, "guidance_interval", "[lo,hi] with 0 <= lo < hi, both finite, or null")
    _require(way, way.cfg_cache is None or 0 <= way.cfg_cache < 1, "cfg_cache", "in [0, 1), or null")
    _one_of(way, "cfg_cache_predictor", CFG_CACHE_PREDICTORS)
    _within(way, "cfg_cache_start", 1, way.num_evaluations)
    _within(way, "batch_size", 1, MOST_SAMPLES)
    _within(way, "calibration_samples", 1, MOST_SAMPLES)
    _within(way, "calibration_seed", 0, LARGEST_SEED)
    way.schedule.check(way.num_evaluations)
    way.predictor.check()


def check_selection(way: Way) -> None:
    """Raise ConfigError where there is nothing that a selection of tokens could be computed in."""
    selected = f"selection={way.selection.name}"
    if not way.schedule.caches():
        raise ConfigError(f"{selected}: must be none where no cell is cached (method=none, or cache_ratio=0)")
    if way.site == "stack":
        raise ConfigError(f"site=stack: must be branch with {selected}, which computes tokens of a branch")
    if way.schedule.decides:
        raise ConfigError(f"schedule={way.schedule.name}: not supported with {selected}, as it skips blocks as it runs")
    if not way.predictor.takes_tokens:
        takers = ", ".join(name for name, predictor in PREDICTORS.items() if predictor.takes_tokens)
        raise ConfigError(
            f"predictor={way.predictor.name}: must be one of {takers} with {selected}, which replaces some tokens of "
            "what is held"
        )
    if way.predictor.scaled:
        raise ConfigError(
            f"predictor.dtype={way.predictor.settings()['dtype']}: not supported with {selected}, which replaces some "
            "tokens of what is held"
        )
    way.selection.check()


def check_measurement(measurement: Measurement) -> None:
    """Raise ConfigError on the first setting of a measurement that cannot be run."""
    _one_of(measurement, "model.objective", (*OBJECTIVES, PIPELINE))
    _one_of(measurement, "precision", tuple(PRECISIONS))
    _within(measurement, "num_samples", 1, MOST_SAMPLES)
    _within(measurement, "seed", 0, LARGEST_SEED)
    _require(measurement, _is_name(measurement.model.name), "model.name", "a name on one line, without ..")
    _require(measurement, math.isfinite(measurement.cfg_scale), "cfg_scale", "a finite number")
    (check_pipeline if measurement.model.is_pipeline else check_denoiser)(measurement)


def check_pipeline(measurement: Measurement) -> None:
    """Raise ConfigError on the first setting that a pipeline of diffusers cannot have, or lacks."""
    model = measurement.model
    for key, what in {"model.pipeline": "a folder in diffusers' format, or its name on the hub",
                      "prompts": "a text file with a prompt a line"}.items():  # fmt: skip
        _require(measurement, operator.attrgetter(key)(measurement) is not None, key, what)
    _require(
        measurement, measurement.class_labels == UNIFORM, "class_labels", f"{UNIFORM} with model.objective={PIPELINE}"
    )
    _require(measurement, model.network is None, "model.network", f"null with model.objective={PIPELINE}")
    _require(measurement, measurement.vae is None, "vae", f"null with model.objective={PIPELINE}, which has its own")
    for key, value in model.call.items():
        decides = next((setting for pattern, setting in OF_A_CALL.items() if fnmatchcase(str(key), pattern)), None)
        if decides is not None:
            raise ConfigError(f"model.call.{key}={value}: must not be there; {decides} decides it")


def check_denoiser(measurement: Measurement) -> None:
    """Raise ConfigError on the first setting that a denoiser of this project cannot have."""
    model = measurement.model
    for key in (*OF_PIPELINES["measurement"], *(f"model.{key}" for key in OF_PIPELINES["model"])):
        given = operator.attrgetter(key)(measurement)
        _require(measurement, not given, key, f"null with model.objective={model.objective}; model=pipeline has it")
    for key in ("extractor", "reference"):
        if getattr(model, key) is None:
            raise ConfigError(f"model.{key}=null: must be named for {model.name}")
    for key, most in LARGEST_SHAPE.items():
        _within(measurement, f"model.{key}", 1 if model.network is None or key in OF_ANY_NETWORK else 0, most)
    given_labels(measurement.class_labels, model.num_classes)
    if measurement.class_labels == BALANCED and measurement.num_samples % model.num_classes:
        raise ConfigError(
            f"class_labels={BALANCED}: num_samples={measurement.num_samples} must be a multiple of the "
            f"{model.num_classes} classes"
        )
    _within(measurement, "vae_batch_size", 1, MOST_SAMPLES)
    if measurement.vae is None and model.in_channels not in (1, 3):
        raise ConfigError(
            f"vae=null: {model.name} makes latents of {model.in_channels} channels, which only a vae "
            "turns into images: ema, mse, a folder, or a hub repository"
        )
    _within(measurement, "cfg_channels", 1, LARGEST_SHAPE["in_channels"])
    if model.network is not None:
        return
    _require(measurement, model.hidden_size % model.num_heads == 0, "model.hidden_size", "a multiple of num_heads")
    _require(measurement, model.input_size % model.patch_size == 0, "model.input_size", "a multiple of patch_size")


def check_execution(execution: Execution) -> None:
    """Raise ConfigError on the first setting of an execution that cannot be run."""
    most = max(MOST_THREADS, os.cpu_count() or 1)
    threads = execution.threads
    _require(execution, threads is None or 1 <= threads <= most, "threads", f"at least 1 and at most {most}, or null")
    _require(execution, 0 < execution.worker_timeout_s <= LONGEST_S, "worker_timeout_s", SECONDS)
    _within(execution, "latency_repeats", 0, MOST_REPEATS)
    _require(execution, execution.offload in (None, "model"), "offload", "model, or null")


def check_output(output: Output, num_samples: int) -> None:
    """Raise ConfigError on the first setting of an output that cannot be had from so many samples."""
    check_name(output)
    _one_of(output, "save_images", SAVE_IMAGES)
    for key in ("distance_samples", "converged_samples"):
        within = 0 <= (getattr(output, key) or 0) <= MOST_SAMPLES
        _require(output, within, key, f"at least 0 and at most {MOST_SAMPLES}, or null")
    _one_of(output, "tracker", TRACKERS)
    check_wandb(output.wandb)
    if output.tracker == "wandb":  # where a study's name is part of longer ones
        _require(output, len(output.name) <= LONGEST_STUDY, "name", f"of at most {LONGEST_STUDY} characters with W&B")
    for metric in output.metrics:
        if metric not in METRICS:
            raise ConfigError(f"metrics={metric}: must be one of {', '.join(METRICS)}")
        if num_samples < METRICS[metric].minimum_samples:
            raise ConfigError(
                f"num_samples={num_samples}: must be at least {METRICS[metric].minimum_samples} "
                f"for the metric {metric} (or leave it out of metrics)"
            )


def check_wandb(settings: WandbConfig) -> None:
    """Raise ConfigError for what Weights & Biases refuses, which offline only a sync would tell."""
    modes = f"one of {', '.join(WANDB_MODES)}, or null"
    wandb = SimpleNamespace(wandb=settings)
    _require(wandb, settings.mode in (None, *WANDB_MODES), "wandb.mode", modes)
    _require(wandb, 0 < settings.timeout_s <= LONGEST_S, "wandb.timeout_s", SECONDS)
    for key in ("project", "entity", "group"):
        text = getattr(settings, key)
        named = text is None or (bool(text.strip()) and text.isprintable() and len(text) <= LONGEST_WANDB_NAME)
        _require(wandb, named, f"wandb.{key}", f"1 to {LONGEST_WANDB_NAME} characters on one line")
        allowed = key == "group" or not set(text or "") & set(NOT_IN_WANDB_NAMES)
        _require(wandb, allowed, f"wandb.{key}", f"without {' '.join(NOT_IN_WANDB_NAMES)}")


def check_name(output: Output) -> None:
    """Raise ConfigError for a study's name that is no folder below outputs/."""
    path = PurePath(output.name)
    inside = path.parts != () and not path.is_absolute() and ".." not in path.parts
    _require(output, inside, "name", "the name of a folder below outputs/, without ..")
    _require(output, _is_name(output.name), "name", "a name on one line")


def _is_name(text: str) -> bool:
    """Whether it may be part of a path, and stand in a table."""
    return bool(text.strip()) and text.isprintable() and ".." not in PurePath(text).parts
