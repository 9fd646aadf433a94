"""Image quality: features and metrics by torch-fidelity, and the distance to the uncached run of the same seeds."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
from torch_fidelity.utils import create_feature_extractor

import goc.digits  # noqa: F401  (registers the extractor "digits")
from goc.errors import ConfigError, GocError

KID_SUBSET_SIZE = 1000
PRC_NEIGHBORHOOD = 3


@dataclass(frozen=True)
class Features:
    """Features of a set of images: [N, D] for distances, and logits [N, classes] for the Inception score."""

    features: Tensor
    logits: Tensor


def inception_score(generated: Features, reference: Tensor) -> dict[str, float]:
    """IS over 10 splits (Salimans et al., arXiv 1606.03498)."""
    result = isc_features_to_metric(generated.logits, splits=min(10, len(generated.logits)))
    return {"is": result["inception_score_mean"], "is_std": result["inception_score_std"]}


def fid(generated: Features, reference: Tensor) -> dict[str, float]:
    """Frechet distance (Heusel et al., arXiv 1706.08500)."""
    statistics = [fid_features_to_statistics(f.double()) for f in (generated.features, reference)]
    return {"fid": fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]}


def kid(generated: Features, reference: Tensor) -> dict[str, float]:
    """Kernel distance over 100 random subsets (Binkowski et al., arXiv 1801.01401)."""
    size = min(KID_SUBSET_SIZE, len(generated.features), len(reference))
    result = kid_features_to_metric(generated.features, reference, kid_subset_size=size, verbose=False)
    return {"kid": result["kernel_inception_distance_mean"], "kid_std": result["kernel_inception_distance_std"]}


def precision_recall(generated: Features, reference: Tensor) -> dict[str, float]:
    """Improved precision and recall, 3 neighbours (Kynkaanniemi et al., arXiv 1904.06991)."""
    result = prc_features_to_metric(
        generated.features, reference, prc_neighborhood=PRC_NEIGHBORHOOD, save_cpu_ram=True, verbose=False
    )
    return {"precision": result["precision"], "recall": result["recall"]}


@dataclass(frozen=True)
class Metric:
    """A metric of generated features against the reference's [M, D], and the fewest samples it is defined for."""

    compute: Callable[[Features, Tensor], dict[str, float]]
    minimum_samples: int


METRICS = {
    "isc": Metric(inception_score, 1),
    "fid": Metric(fid, 2),
    "kid": Metric(kid, 2),
    "prc": Metric(precision_recall, PRC_NEIGHBORHOOD + 1),
}


def load_extractor(name: str, device: torch.device) -> FeatureExtractorBase:
    """A torch-fidelity feature extractor by its registered name, giving what FID and IS use; raises ConfigError."""
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        raise ConfigError(f"model.extractor={name}: must be one of {', '.join(FEATURE_EXTRACTORS_REGISTRY)}")
    extractor_class = FEATURE_EXTRACTORS_REGISTRY[name]
    layers = [extractor_class.get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc")]
    return create_feature_extractor(name, layers, cuda=False, verbose=False).to(device)


def load_reference(path: Path) -> Tensor:
    """Features of the real images, float32 [M, D]; raises GocError if the file is missing or damaged."""
    try:
        return load_file(path)["features"]
    except (FileNotFoundError, SafetensorError, KeyError, OSError) as error:
        raise GocError(f"model.reference={path}: no features of real images there ({error})") from error


@torch.inference_mode()
def extract(images: Iterable[Tensor], extractor: FeatureExtractorBase, device: torch.device) -> Features:
    """Features of batches of uint8 images [n, C, H, W]."""
    outputs = [[output.cpu() for output in extractor(batch.to(device))] for batch in images]
    features, logits = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return Features(features, logits)


def evaluate(metrics: Sequence[str], generated: Features, reference: Tensor) -> dict[str, float]:
    """The named metrics of generated features against the reference features [M, D]."""
    values: dict[str, float] = {}
    for name in metrics:
        values |= METRICS[name].compute(generated, reference)
    return values


def distance(pairs: Iterable[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> dict[str, float]:
    """How far cached samples are from the uncached ones of the same seeds, over all batches together.

    pairs: (cached, uncached) shards with `latents` (float [n, C, H, W]) and `images` (uint8 [n, C, H, W]). Returns
    mse = mean |z - z0|^2 and relative_l2 = |z - z0| / |z0| of the final latents, and psnr of the images in dB
    (infinite when they are equal).
    """
    squared = norm = pixels_squared = 0.0
    values = pixels = 0
    for cached, uncached in pairs:
        difference = cached["latents"].double() - uncached["latents"].double()
        squared += difference.square().sum().item()
        norm += uncached["latents"].double().square().sum().item()
        values += difference.numel()
        pixels_squared += (cached["images"].double() - uncached["images"].double()).square().sum().item()
        pixels += cached["images"].numel()
    psnr = 10 * math.log10(255**2 * pixels / pixels_squared) if pixels_squared else math.inf
    return {"mse": squared / values, "relative_l2": math.sqrt(squared / norm), "psnr": psnr}
