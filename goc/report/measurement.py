"""What a number depends on apart from the way it was made: rows of one table must agree in all of it.

Most disputes over published FIDs are about one of these.
"""

from dataclasses import dataclass
from typing import Any

from goc.config import Measurement, Way, label
from goc.config.settings import LEFT_OPEN
from goc.models.decoder import PIPELINES_UINT8_RULE, UINT8_RULE
from goc.sampling.labels import UNIFORM
from goc.sampling.options import plain


@dataclass(frozen=True)
class Kind:
    """What numbers of a kind of model depend on: settings of guidance and of the model, and how images are rounded."""

    guidance: tuple[str, ...]
    of_model: tuple[str, ...]
    uint8: str


DENOISERS = Kind(("cfg_scale", "cfg_channels"), LEFT_OPEN, UINT8_RULE)
PIPELINES = Kind(("cfg_scale",), ("call",), PIPELINES_UINT8_RULE)


def describe_measurement(measurement: Measurement, hashes: dict[str, str | None]) -> dict[str, Any]:
    """The measurement of a run: its guidance, seeds and conversion to uint8, and the hashes of all weights used.

    hashes: model_sha256, vae_sha256 (None in pixel space) or a pipeline's prompts_sha256 and clip_sha256,
    extractor_sha256 and reference_sha256.
    """
    model = measurement.model
    kind = PIPELINES if model.is_pipeline else DENOISERS
    return {
        "model": model.name,
        "objective": model.objective,
        **hashes,
        **{key: getattr(measurement, key) for key in (*kind.guidance, "num_samples", "seed", "precision")},
        **{key: getattr(model, key) for key in kind.of_model},
        **({} if model.network is None else {"network": model.network_source}),
        **({} if measurement.class_labels == UNIFORM else {"class_labels": measurement.class_labels}),
        "extractor": model.extractor,
        "uint8": kind.uint8,
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
