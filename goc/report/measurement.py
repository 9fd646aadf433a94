"""What a number depends on apart from the way it was made: rows of one table must agree in all of it.

Most disputes over published FIDs are about one of these.
"""

from typing import Any

from goc.config import Measurement, Way, label
from goc.config.settings import LEFT_OPEN
from goc.models.decoder import PIPELINES_UINT8_RULE, UINT8_RULE
from goc.sampling.labels import UNIFORM
from goc.sampling.options import plain


def describe_measurement(measurement: Measurement, hashes: dict[str, str | None]) -> dict[str, Any]:
    """The measurement of a run: its guidance, seeds and conversion to uint8, and the hashes of all weights used.

    hashes: model_sha256, vae_sha256 (None in pixel space) or a pipeline's prompts_sha256 and clip_sha256,
    extractor_sha256 and reference_sha256.
    """
    model = measurement.model
    own = ("cfg_scale",) if model.is_pipeline else ("cfg_scale", "cfg_channels")
    return {
        "model": model.name,
        "objective": model.objective,
        **hashes,
        **{key: getattr(measurement, key) for key in (*own, "num_samples", "seed", "precision")},
        **({"call": model.call} if model.is_pipeline else {}),
        **({} if model.is_pipeline else {key: getattr(model, key) for key in LEFT_OPEN}),
        **({} if measurement.class_labels == UNIFORM else {"class_labels": measurement.class_labels}),
        "extractor": model.extractor,
        "uint8": PIPELINES_UINT8_RULE if model.is_pipeline else UINT8_RULE,
    }


def describe_way(way: Way) -> dict[str, Any]:
    """The way of a run in a few names; its settings are in the config."""
    return {
        "sampler": plain(way.sampler),
        "steps": way.steps,
        "method": label(way),
        "schedule": way.schedule.name,
        "predictor": way.predictor.name,
        "site": way.site,
        "clock": way.clock,
        **way.guidance,
    }
