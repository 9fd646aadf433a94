"""The Inception-v3 of published ImageNet numbers: torch-fidelity's extractor, safely loaded, with sFID's features.

torch-fidelity knows it as "inception". It gives what "inception-v3-compat" gives, and "sfid" beside it.
"""

import http.client
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from goc.metrics.fidelity import URL_INCEPTION_V3, FeatureExtractorInceptionV3, register_feature_extractor
from goc.metrics.registry import SETTING, SPATIAL_CHANNELS
from goc.models.checkpoint import read_tensors
from goc.system.errors import GocError
from goc.system.files import require_file
from goc.system.locks import Lock
from goc.system.published import PUBLISHED_SHA256

WEIGHTS = URL_INCEPTION_V3.rsplit("/", 1)[1]

SPATIAL = "sfid"


def inception_weights(path: Path | None, setting: str = SETTING) -> Path:
    """The weights file to use: the one given, or torch-fidelity's, which is downloaded to torch.hub's cache once.

    Raises GocError if the file is not there, or not to be had.
    """
    if path is not None:
        return require_file(path, f"{setting}_weights", "; get it with `goc fetch`")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if str(folder).startswith("~"):
        raise GocError(
            f"{setting}=inception: there is no home folder to keep its weights {WEIGHTS} in; "
            f"name a folder by the variable TORCH_HOME, or the file by {setting}_weights"
        )
    path = folder / WEIGHTS
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with Lock(path.with_suffix(".lock")):  # of several processes, one downloads
                if not path.is_file():
                    torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=PUBLISHED_SHA256[WEIGHTS])
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise GocError(
            f"{setting}=inception: its weights {WEIGHTS} are not in {folder} and could not be downloaded "
            f"({error}); get them with `goc fetch`, or name a file by {setting}_weights"
        ) from error
    return path


class InceptionFeatureExtractor(FeatureExtractorInceptionV3):
    """torch-fidelity extractor "inception": uint8 images [N, 3, H, W] of any size -> the features asked for.

    Beside the base class's layers it gives "sfid" [N, 2023] (Nash et al., arXiv 2103.03841, as in ADM's evaluation):
    the first 7 channels of the first branch of Mixed_6d (1x1 convolution, after its ReLU), 17x17x7, flattened in
    NHWC order.
    """

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: Path | str | None = None,
        **other: Any,
    ) -> None:
        path = None if feature_extractor_weights_path is None else Path(feature_extractor_weights_path)
        # the base class unpickles whatever it is given, so it is given what was safely read, pickled again
        weights = io.BytesIO()
        torch.save(read_tensors(inception_weights(path)), weights)
        weights.seek(0)
        super().__init__(name, features_list, weights, **other)
        self.features_list: list[str] = features_list
        if SPATIAL in features_list:
            self.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return *FeatureExtractorInceptionV3.get_provided_features_list(), SPATIAL

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        if metric == SPATIAL:
            return SPATIAL
        return FeatureExtractorInceptionV3.get_default_feature_layer_for_metric(metric)

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        requested = self.features_list
        # the base class knows only its own layers, and stops after the last of them: "768" comes after Mixed_6d
        layers = [layer for layer in requested if layer != SPATIAL]
        if SPATIAL in requested and set(layers) <= {"64", "192"}:
            layers.append("768")
        self.features_list = layers
        try:
            outputs = dict(zip(layers, super().forward(images), strict=True))
        finally:
            self.features_list = requested
        if SPATIAL in requested:
            outputs[SPATIAL] = self._spatial
            del self._spatial
        return tuple(outputs[layer] for layer in requested)


register_feature_extractor("inception", InceptionFeatureExtractor)
