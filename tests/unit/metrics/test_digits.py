"""The shipped assets: small, as documented, and made of real digits."""

import torch
from real_data import real_digits
from sklearn.model_selection import train_test_split

from goc.metrics.features import load_extractor
from goc.models.decoder import to_uint8
from goc.system.files import ASSETS


def test_the_assets_are_under_sixteen_megabytes() -> None:
    assert sum(path.stat().st_size for path in (ASSETS / "digits").iterdir()) < 16e6


def test_the_extractor_recognises_held_out_digits() -> None:
    images, labels = real_digits()
    _, held_out = train_test_split(torch.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    cpu = torch.device("cpu")
    features = load_extractor("digits", None, cpu).extract(to_uint8(images[held_out]))
    assert (features.logits.argmax(dim=1) == labels[held_out]).float().mean() >= 0.97
