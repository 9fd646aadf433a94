"""What is known of metrics and of feature extractors without loading them."""

from dataclasses import dataclass
from typing import Literal

PRC_NEIGHBORHOOD = 3
SPATIAL_CHANNELS = 7
SPATIAL_FEATURES = 17 * 17 * SPATIAL_CHANNELS


@dataclass(frozen=True)
class MetricKind:
    """What a metric asks for.

    minimum_samples: the fewest samples it is defined for. needs: what not every extractor and reference has: spatial
    features, or the features of the reference's single images; or prompts, which only pipelines have. compares: whether
    it is of features of the samples and of real images.
    """

    minimum_samples: int
    needs: Literal["spatial", "images", "prompts"] | None = None
    compares: bool = True


METRICS = {
    "isc": MetricKind(1, compares=False),
    "fid": MetricKind(2),
    "sfid": MetricKind(2, needs="spatial"),
    "kid": MetricKind(2, needs="images"),
    "prc": MetricKind(PRC_NEIGHBORHOOD + 1, needs="images"),
    "clip": MetricKind(1, needs="prompts", compares=False),
}


@dataclass(frozen=True)
class ExtractorKind:
    """An extractor's outputs, and the images it takes.

    layers are its outputs in the order of Features; size and spatial_size their D and S (0: it has no spatial
    features); image_size the only size of images it takes (None: any).
    """

    layers: tuple[str, ...]
    size: int
    spatial_size: int
    channels: int
    image_size: int | None


EXTRACTORS = {
    "digits": ExtractorKind(("64", "logits_unbiased"), 64, 0, 1, 8),
    "inception": ExtractorKind(("2048", "logits_unbiased", "sfid"), 2048, SPATIAL_FEATURES, 3, None),
}
