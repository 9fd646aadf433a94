"""What a run is: the settings that decide its images, its method's name, and the name of its folder."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from goc.config.known import GROUPS
from goc.config.settings import (
    OF_DENOISERS,
    OF_GUIDANCE,
    OF_PIPELINES,
    OF_SECOND,
    Config,
    Measurement,
    ModelConfig,
    Way,
)
from goc.config.validation import fill
from goc.methods import name_of
from goc.methods.predictors import GradientQueueConfig
from goc.methods.published import DEFAULT_SELECTION
from goc.models.objective import PIPELINE
from goc.models.plans import plan_sha256
from goc.sampling.options import plain
from goc.system.files import content_key
from goc.system.plugins import source_of

FILES = "files"  # of flat settings: the hashes of `way_files`

# such runs make the same images but for rounding, and are timed apart
TIMED_APART = ("compile", "graphs")
# runs that differ in one of these have folders of their own
TOLD_APART = (*(f.name for part in (Measurement, Way) for f in fields(part)), FILES, *TIMED_APART)

# of these (by the part of the settings), what decides no image, and what older runs had no setting for, with what
# stands for theirs: neither counts in the name of a folder
NO_IMAGES = (("", "evaluations"), *(("model", key) for key in ("family", "schedules", "weights", "fronts", *OF_SECOND)))
ONCE_ALWAYS: dict[tuple[str, str], Any] = {
    ("", "class_labels"): Measurement.class_labels,
    ("", "selection"): {"name": DEFAULT_SELECTION},
    ("", "inflection_signal"): Way.inflection_signal,
    ("model", "objective"): ModelConfig.objective,
    ("model", "blip"): None,
    ("predictor", "gradients"): GradientQueueConfig.gradients,
}


def flat(config: Config) -> dict[str, Any]:
    """All settings as plain values under the keys that users type, as result.json holds them."""
    parts = (asdict(part) for part in (config.way, config.measurement, config.execution, config.output))
    settings = {key: value for part in parts for key, value in part.items()}
    settings |= {"sampler": plain(config.way.sampler), "predictor": config.way.predictor.settings()}
    unused = [key for key in OF_GUIDANCE if key not in config.way.guidance]
    for key in (*unused, *(key for key in ("plugins", "graphs") if not getattr(config.execution, key))):
        del settings[key]
    return _applicable(settings) | ({FILES: dict(config.files)} if config.files else {})


def files_of(way: Way, measurement: Measurement) -> Iterator[tuple[str, str]]:
    """Each file that a normalised way's method is read from: the setting that names it, and its path."""
    for group, part in (("schedule", way.schedule), ("predictor", way.predictor), ("sampler", way.sampler)):
        for key, stand_in in part.reads.items():
            named = getattr(part, key)
            if named is None and stand_in is not None:
                template = getattr(measurement.model, stand_in)
                named = template and fill(template, way, measurement.model.name, measurement.cfg_scale)
            if named is not None:
                yield f"{group}.{key}", named


def way_files(way: Way, measurement: Measurement) -> dict[str, str]:
    """SHA-256 of each file that a normalised way's method is read from, by the setting that names it.

    An option of a plugin, and its network, have what the plugin is known by: its version and sources. A file that is
    not there has none: whether it is needed shows when the method is planned.
    """
    files = ((setting, plan_sha256(path)) for setting, path in files_of(way, measurement))
    hashes = {setting: sha256 for setting, sha256 in files if sha256 is not None}
    for group, options in GROUPS.items():
        name = getattr(way, group).name
        if (package := options.plugin_of(name)) is not None:
            hashes[f"{group}={name}"] = source_of(package)
    if (source := measurement.model.network_source) is not None:
        hashes["model.network"] = source
    return hashes


def _applicable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that only a pipeline has, or only what is none; some are there only if named.

    These are a plugin's network, and a second opinion.
    """
    model = settings["model"]
    others = OF_DENOISERS if model["objective"] == PIPELINE else OF_PIPELINES
    kept = {key: value for key, value in settings.items() if key not in others["measurement"]}
    unused = {*others["model"], *(key for key in ("network", *OF_SECOND) if model[key] is None)}
    return kept | {"model": {key: value for key, value in model.items() if key not in unused}}


def identity(config: Config) -> dict[str, Any]:
    """What decides which images a run makes: its measurement and its way, as plain values."""
    return {key: value for key, value in distinguishing(flat(config)).items() if key not in TIMED_APART}


def distinguishing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of flat settings by which runs are told apart; those of an older version may lack some."""
    return _as_before({key: settings[key] for key in TOLD_APART if key in settings})


def _as_before(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what decides no image, or says only what was always so: names of folders stay as they were."""
    kept = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for part, key in NO_IMAGES:
        (kept[part] if part else kept).pop(key, None)
    for (part, key), always in ONCE_ALWAYS.items():
        holder = kept.get(part) if part else kept
        if isinstance(holder, dict) and key in holder and holder[key] == always:
            del holder[key]
    return kept


def label(way: Way) -> str:
    """Name of a method in tables: the published one, or its schedule and predictor; and what it saves of guidance."""
    parts = [name_of(way.schedule.name, way.predictor, way.selection.name, way.site, way.clock)]
    if way.guidance and not way.schedule.caches():
        parts = []
    if way.guidance_interval is not None:
        parts.append("interval" + "-".join(map(_short, way.guidance_interval)))
    if way.cfg_cache is not None:
        linear = "" if way.cfg_cache_predictor == "reuse" else way.cfg_cache_predictor
        start = "" if way.cfg_cache_start == 1 else f"-from{way.cfg_cache_start}"
        parts.append(f"cfg{_short(way.cfg_cache)}{linear}{start}")
    return "+".join(parts)


def _short(value: float) -> str:
    """A number that no other has the text of."""
    return str(float(value)).removesuffix(".0")


def run_id(config: Config) -> str:
    """Folder name of a run: readable, and different for every config that makes other images."""
    way = config.way
    ratio = "" if way.cache_ratio is None else f"-r{way.cache_ratio:g}"
    return f"{label(way)}-{way.sampler.name}{way.steps}{ratio}-{content_key(distinguishing(flat(config)))[:8]}"
