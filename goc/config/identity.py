"""What a run is: the settings that decide its images, its method's name, and the name of its folder."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from os.path import isfile
from typing import Any

from omegaconf import OmegaConf

from goc.config.settings import OF_DENOISERS, OF_PIPELINES, Config, Measurement, ModelConfig, Way
from goc.config.validation import place
from goc.methods import GradientQueueConfig
from goc.models.objective import PIPELINE
from goc.samplers import plain
from goc.system.files import CONF, content_key, file_sha256, resolve

FILES = "files"  # of flat settings: the hashes of `way_files`

# runs that differ in one of these have folders of their own: a compiled run makes the same images, but is timed apart
TOLD_APART = (*(f.name for part in (Measurement, Way) for f in fields(part)), FILES, "compile")


def flat(config: Config) -> dict[str, Any]:
    """All settings as plain values under the keys that users type, as result.json holds them."""
    parts = (asdict(part) for part in (config.way, config.measurement, config.execution, config.output))
    settings = {**{key: value for part in parts for key, value in part.items()}, "sampler": plain(config.way.sampler)}
    return _of_its_kind(settings) | ({FILES: dict(config.files)} if config.files else {})


def way_files(way: Way, measurement: Measurement) -> dict[str, str]:
    """SHA-256 of each file that a normalised way's method is read from, by the setting that names it.

    A file that is not there has none: whether it is needed shows when the method is planned.
    """
    hashes = {}
    for group, part in (("schedule", way.schedule), ("predictor", way.predictor)):
        for key, stand_in in part.reads.items():
            named = getattr(part, key)
            if named is None and stand_in is not None:
                template = getattr(measurement.model, stand_in)
                named = template and place(template, way, measurement.model.name, measurement.cfg_scale)
            if named is not None and isfile(resolve(named)):
                hashes[f"{group}.{key}"] = file_sha256(resolve(named))
    return hashes


def _of_its_kind(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that only a pipeline has, or only what is none."""
    model = settings["model"]
    others = OF_DENOISERS if model["objective"] == PIPELINE else OF_PIPELINES
    kept = {key: value for key, value in settings.items() if key not in others["measurement"]}
    return kept | {"model": {key: value for key, value in model.items() if key not in others["model"]}}


def identity(config: Config) -> dict[str, Any]:
    """What decides which images a run makes: its measurement and its way, as plain values."""
    return {key: value for key, value in told_apart(flat(config)).items() if key != "compile"}


def told_apart(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of flat settings by which runs are told apart; those of an older version may lack some."""
    return _as_before({key: settings[key] for key in TOLD_APART if key in settings})


def _as_before(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what decides no image, or says only what was always so: names of folders stay as they were."""
    model = {key: value for key, value in settings["model"].items() if key not in ("family", "schedules", "weights")}
    if model.get("objective") == ModelConfig.objective:
        del model["objective"]
    kept = {key: value for key, value in settings.items() if key != "evaluations"} | {"model": model}
    if kept.get("inflection_signal") == Way.inflection_signal:
        del kept["inflection_signal"]
    predictor = kept.get("predictor")
    if isinstance(predictor, Mapping) and predictor.get("gradients") == GradientQueueConfig.gradients:
        kept["predictor"] = {key: value for key, value in predictor.items() if key != "gradients"}
    return kept


@cache
def published() -> dict[tuple[str, ...], str]:
    """Names of the combinations in conf/method, by (schedule, predictor, its gradients, site, clock)."""
    names = {}
    defaults = {f.name: f.default for f in fields(Way)}
    for path in sorted((CONF / "method").glob("*.yaml")):
        method = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(method, dict)
        chosen = {group: option for entry in method["defaults"] for group, option in entry.items()}
        settings = (str(method.get(key, defaults[key])) for key in ("site", "clock"))
        predictor = chosen["override /predictor"], method.get("predictor", {}).get("gradients", "used")
        names[(chosen["override /schedule"], *predictor, *settings)] = path.stem
    return names


def label(way: Way) -> str:
    """Name of a method in tables: the published one, or else its schedule and its predictor."""
    gradients = getattr(way.predictor, "gradients", "used")
    parts = way.schedule.name, way.predictor.name, gradients, way.site, way.clock
    composed = "+".join(part for part in parts if part != "used")
    return published().get(parts, composed.removesuffix("+step").removesuffix("+branch"))


def run_id(config: Config) -> str:
    """Folder name of a run: readable, and different for every config that makes other images."""
    way = config.way
    ratio = "" if way.cache_ratio is None else f"-r{way.cache_ratio:g}"
    return f"{label(way)}-{way.sampler.name}{way.steps}{ratio}-{content_key(told_apart(flat(config)))[:8]}"
