"""The feature extractors of the embedded models, each trained on the real images of its kind.

They play the part that Inception plays for ImageNet; torch-fidelity knows each by its name, "digits" or "fashion".
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from goc.metrics.fidelity import FeatureExtractorBase, register_feature_extractor
from goc.metrics.registry import EXTRACTORS
from goc.system.errors import GocError
from goc.system.files import require_regular_file, resolve

STRIDES = {"digits": 1, "fashion": 2}  # of the first convolution, by name
NUM_CLASSES = 10
FEATURES = "64"
LOGITS = "logits_unbiased"


def embedded_weights(name: str, path: Path | None) -> Path:
    """The weights file of an embedded extractor, given or shipped; raises GocError if it is missing."""
    path = path or resolve(f"asset:{name}/extractor.safetensors")
    if not path.exists():
        raise GocError(f"model.extractor_weights={path}: no such file (looked for {path.absolute()})")
    require_regular_file(path, "model.extractor_weights")
    return path


class Classifier(nn.Module):
    """Small convolutional classifier: images [N, 1, size, size] in [-1, 1] -> features [N, 64], logits [N, 10]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        size, stride = EXTRACTORS[name].image_size, STRIDES[name]
        assert size is not None  # an embedded model's images are of one
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.features = nn.Linear(64 * (size // stride // 4) ** 2, int(FEATURES))
        self.logits = nn.Linear(int(FEATURES), NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv1(images))
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h = F.max_pool2d(F.relu(self.conv3(h)), 2)
        features = F.relu(self.features(h.flatten(1)))
        return features, self.logits(features)


class EmbeddedExtractor(FeatureExtractorBase):
    """A torch-fidelity extractor: uint8 images [N, 1, size, size] -> features [N, 64] and logits [N, 10]."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: Path | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        self.classifier = Classifier(name)
        self.classifier.load_state_dict(load_file(embedded_weights(name, feature_extractor_weights_path)))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return FEATURES, LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LOGITS if metric == "isc" else FEATURES

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = dict(zip((FEATURES, LOGITS), self.classifier(images.float() / 127.5 - 1), strict=True))
        return tuple(outputs[name] for name in self.features_list)


WEIGHTS = {name: partial(embedded_weights, name) for name in STRIDES}
for _name in WEIGHTS:
    register_feature_extractor(_name, EmbeddedExtractor)
