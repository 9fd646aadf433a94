import hashlib
import shutil
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.utils import create_feature_extractor

from goc.metrics.features import Extractor, extractor_weights, load_extractor
from goc.metrics.inception import WEIGHTS, inception_weights
from goc.metrics.registry import EXTRACTORS
from goc.system.errors import ConfigError, GocError
from goc.system.files import file_sha256

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor(inception_file: Path) -> Extractor:
    return load_extractor("inception", inception_file, CPU)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_and_logits_are_torch_fidelitys(extractor: Extractor, images: Tensor, inception_file: Path) -> None:
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(inception_file))
    features, logits = theirs(images)
    extracted = extractor.extract(images)
    assert features.std() > 0.01
    assert extracted.features.equal(features)
    assert extracted.logits.equal(logits)


def test_the_spatial_features_are_seven_channels_of_mixed_6d_in_nhwc_order(
    extractor: Extractor, images: Tensor, inception_file: Path
) -> None:
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["768"], str(inception_file))
    outputs: list[Tensor] = []
    # Mixed_6d joins its branches along the channels, the 1x1 convolution first
    theirs.Mixed_6d.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    theirs(images)
    expected = outputs[0].numpy().transpose(0, 2, 3, 1)[..., :7].reshape(2, -1)
    spatial = extractor.extract(images).spatial
    assert spatial is not None
    assert spatial.shape == (2, 2023) == (2, EXTRACTORS["inception"].spatial_size)
    assert spatial.dtype == torch.float32
    assert (expected > 0).any()
    assert (expected >= 0).all()  # after the ReLU
    assert spatial.equal(torch.from_numpy(expected))


@pytest.mark.parametrize("layers", [["sfid"], ["sfid", "64"], ["768", "sfid"], ["64", "2048"]])
def test_layers_come_as_asked_for(layers: list[str], images: Tensor, inception_file: Path) -> None:
    extractor = create_feature_extractor(
        "inception", layers, cuda=False, verbose=False, feature_extractor_weights_path=inception_file
    )
    sizes = {"sfid": 2023, "64": 64, "768": 768, "2048": 2048}
    outputs = extractor(images[:1])
    assert [output.shape[1] for output in outputs] == [sizes[layer] for layer in layers]
    assert list(extractor.convert_features_tuple_to_dict(outputs)) == layers


def test_grey_images_are_one_line(extractor: Extractor) -> None:
    with pytest.raises(ConfigError, match=r"model\.extractor=inception: takes images of 3 channels; these have 1"):
        extractor.extract(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_weights_may_be_a_safetensors_file(
    tmp_path: Path, inception_file: Path, extractor: Extractor, images: Tensor
) -> None:
    path = tmp_path / "inception.safetensors"
    save_file(torch.load(inception_file, weights_only=True), path)
    extracted = load_extractor("inception", path, CPU).extract(images)
    assert extracted.features.equal(extractor.extract(images).features)


def test_without_network_the_line_says_what_is_missing_where_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(GocError) as raised:
        load_extractor("inception", None, CPU)
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith("model.extractor=inception: its weights weights-inception-2015-12-05-6726825d.pth")
    for part in (str(tmp_path / "hub" / "checkpoints"), "no route to host", "goc fetch"):
        assert part in text


def test_weights_are_downloaded_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inception_file: Path
) -> None:
    downloads: list[str] = []

    def download(url: str, path: str, hash_prefix: str) -> None:
        assert url.endswith(WEIGHTS)
        assert hash_prefix.startswith("6726825d")
        assert len(hash_prefix) == 64
        downloads.append(path)
        shutil.copy(inception_file, path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    expected = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    assert file_sha256(extractor_weights("inception", None)) == expected
    assert file_sha256(extractor_weights("inception", None)) == expected
    assert downloads == [str(tmp_path / "hub" / "checkpoints" / WEIGHTS)]
    assert inception_weights(None) == Path(downloads[0])
