"""The embedded default's data: scikit-learn's handwritten digits, and the feature extractor trained on them.

The extractor plays the part that Inception plays for ImageNet; torch-fidelity knows it as "digits".
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from goc.metrics.fidelity import FeatureExtractorBase, register_feature_extractor
from goc.system.errors import GocError
from goc.system.files import require_regular_file, resolve

WEIGHTS = "asset:digits/extractor.safetensors"
NUM_CLASSES = 10
FEATURES = "64"
LOGITS = "logits_unbiased"


def real_digits() -> tuple[Tensor, Tensor]:
    """The 1,797 real images [1797, 1, 8, 8] in [-1, 1] and their labels [1797] (needs scikit-learn)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32)).unsqueeze(1) / 8 - 1
    return images, torch.from_numpy(digits.target.astype(np.int64))


def digits_weights(path: Path | None) -> Path:
    """The weights file of the digits extractor: the one given, or the shipped one; raises GocError if it is missing."""
    path = path or resolve(WEIGHTS)
    if not path.exists():
        raise GocError(f"model.extractor_weights={path}: no such file (looked for {path.absolute()})")
    require_regular_file(path, "model.extractor_weights")
    return path


class DigitsClassifier(nn.Module):
    """Small convolutional classifier: images [N, 1, 8, 8] in [-1, 1] -> features [N, 64], logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.features = nn.Linear(64 * 4, int(FEATURES))
        self.logits = nn.Linear(int(FEATURES), NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv1(images))
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h = F.max_pool2d(F.relu(self.conv3(h)), 2)
        features = F.relu(self.features(h.flatten(1)))
        return features, self.logits(features)


class DigitsFeatureExtractor(FeatureExtractorBase):
    """torch-fidelity extractor "digits": uint8 images [N, 1, 8, 8] -> features [N, 64] and logits [N, 10]."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: Path | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        self.classifier = DigitsClassifier()
        self.classifier.load_state_dict(load_file(digits_weights(feature_extractor_weights_path)))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return FEATURES, LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LOGITS if metric == "isc" else FEATURES

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 1, 8, 8, dtype=torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = dict(zip((FEATURES, LOGITS), self.classifier(images.float() / 127.5 - 1), strict=True))
        return tuple(outputs[name] for name in self.features_list)


register_feature_extractor("digits", DigitsFeatureExtractor)
