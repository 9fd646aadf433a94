"""The feature extractors of the embedded models, each trained on the real images of its kind.

The classifiers play the part that Inception plays for ImageNet; torch-fidelity knows each by its name, "digits" or
"fashion". Beside each is a network of another shape that was trained without labels, for a second opinion.
"""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from goc.metrics.fidelity import FeatureExtractorBase, register_feature_extractor
from goc.metrics.registry import EXTRACTORS, SETTING
from goc.system.files import require_file, resolve

STRIDES = {"digits": 1, "fashion": 2}  # of the first convolution, by name
NUM_CLASSES = 10
FEATURES = "64"
LOGITS = "logits_unbiased"


def embedded_weights(name: str, path: Path | None, setting: str = SETTING) -> Path:
    """The weights file of an embedded extractor, given or shipped; raises GocError if it is missing."""
    data, _, trained = name.partition("_")
    return require_file(path or resolve(f"asset:{data}/{trained or 'extractor'}.safetensors"), f"{setting}_weights")


def _side(name: str) -> int:
    """Cells a side of the last convolution's output."""
    size = EXTRACTORS[name].image_size
    assert size is not None  # an embedded model's images are of one
    return size // STRIDES[name.partition("_")[0]] // 4


class Classifier(nn.Module):
    """Small convolutional classifier: images [N, 1, size, size] in [-1, 1] -> features [N, 64], logits [N, 10]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, stride=STRIDES[name])
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.features = nn.Linear(64 * _side(name) ** 2, int(FEATURES))
        self.logits = nn.Linear(int(FEATURES), NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv1(images))
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h = F.max_pool2d(F.relu(self.conv3(h)), 2)
        features = F.relu(self.features(h.flatten(1)))
        return features, self.logits(features)


class Contrasted(nn.Module):
    """Small convolutional network of strides: images [N, 1, size, size] in [-1, 1] -> features [N, 32].

    It is trained without labels, to know an image among others by what a change of place, tilt or brightness leaves
    (SimCLR, arXiv 2002.05709).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, stride=STRIDES[name.partition("_")[0]])
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, stride=2)
        self.features = nn.Linear(32 * _side(name) ** 2, EXTRACTORS[name].size)

    @classmethod
    def load(cls, name: str, path: Path) -> "Contrasted":
        """With the weights of a file."""
        model = cls(name)
        model.load_state_dict(load_file(path))
        return model.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for convolution in (self.conv1, self.conv2, self.conv3):
            h = F.gelu(convolution(h))
        return self.features(h.flatten(1))


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


for _name in STRIDES:
    register_feature_extractor(_name, EmbeddedExtractor)
