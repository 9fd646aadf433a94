"""What a number depends on apart from the caching method: rows of one table must agree in all of it.

Most disputes over published FIDs are about one of these.
"""

from typing import Any

from goc.config import Measurement, Way
from goc.models.decoder import UINT8_RULE
from goc.system.files import content_key


def protocol(measurement: Measurement, way: Way, hashes: dict[str, str | None]) -> dict[str, Any]:
    """The protocol of a run: its sampler, guidance, seeds and conversion to uint8, and the hashes of all weights used.

    hashes: model_sha256, vae_sha256 (None in pixel space), extractor_sha256 and reference_sha256.
    """
    shared = ("cfg_scale", "cfg_channels", "num_samples", "seed", "precision")
    return {
        "model": measurement.model.name,
        **hashes,
        "sampler": way.sampler,
        "steps": way.steps,
        **{key: getattr(measurement, key) for key in shared},
        "extractor": measurement.model.extractor,
        "uint8": UINT8_RULE,
    }


def fingerprint(protocol: dict[str, Any]) -> str:
    """A short name of a protocol: equal for equal ones."""
    return content_key(protocol)
