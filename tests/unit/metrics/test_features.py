import pickle
import re
from pathlib import Path

import pytest
import torch
from refusals import Malicious
from safetensors.torch import save_file

from goc.metrics.features import load_extractor
from goc.metrics.registry import EXTRACTORS
from goc.system.errors import ConfigError, GocError
from goc.system.files import ASSETS, file_sha256

CPU = torch.device("cpu")


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_an_unknown_extractor_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"model\.extractor=vgg: must be one of digits, fashion, inception"):
        load_extractor("vgg", None, CPU)


def test_features_have_the_sizes_promised() -> None:
    features = load_extractor("digits", None, CPU).extract(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert features.features.shape == (3, EXTRACTORS["digits"].size)
    assert features.logits.shape == (3, 10)
    assert features.spatial is None
    assert len(features) == 3


def test_an_extractor_is_named_by_the_hash_of_its_weights(tmp_path: Path) -> None:
    shipped = ASSETS / "digits" / "extractor.safetensors"
    assert load_extractor("digits", None, CPU).weights_sha256 == file_sha256(shipped)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(shipped.read_bytes())
    assert load_extractor("digits", copy, CPU).weights_sha256 == file_sha256(shipped)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 16, 16)])
def test_images_that_the_extractor_is_not_made_for_are_one_line(shape: tuple[int, ...]) -> None:
    extractor = load_extractor("digits", None, CPU)
    with pytest.raises(
        ConfigError, match=r"model\.extractor=digits: takes images of 1 channel, 8x8 pixels; these have"
    ):
        extractor.extract(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["digits", "inception"])
def test_missing_weights_are_one_line_that_says_where_they_were_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    looked_for = re.escape(str(tmp_path / "no.pth"))
    with pytest.raises(GocError, match=rf"model\.extractor_weights=no\.pth: no such file \(looked for {looked_for}\)"):
        load_extractor(name, Path("no.pth"), CPU)


def write_weights(kind: str, path: Path, trace: Path) -> None:
    if kind == "garbage":
        path.write_bytes(b"hello there")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        torch.save({"fc.weight": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "another network":
        torch.save({"weight": torch.zeros(2)}, path)
    elif kind == "no state dict":
        torch.save([torch.zeros(2)], path)
    elif kind == "malicious":
        torch.save({"fc.weight": Malicious(trace)}, path)
    elif kind == "malicious, of long ago":
        path.write_bytes(pickle.dumps(Malicious(trace)))


@pytest.mark.parametrize(
    "kind",
    ["garbage", "empty", "truncated", "another network", "no state dict", "malicious", "malicious, of long ago"],
)
def test_bad_inception_weights_are_one_line_and_none_of_their_code_is_run(kind: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    write_weights(kind, path, trace)
    with pytest.raises(
        GocError, match=r"model\.extractor_weights=.*weights\.pth: not the weights of inception"
    ) as raised:
        load_extractor("inception", path, CPU)
    assert not trace.exists()
    assert len(one_line(raised.value)) < 500


def test_bad_digits_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for content in (b"", b"hello there"):
        path.write_bytes(content)
        with pytest.raises(GocError, match=r"weights\.safetensors: not the weights of digits") as raised:
            load_extractor("digits", path, CPU)
        one_line(raised.value)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(GocError, match=r"not the weights of digits, or damaged \(.*Missing key") as raised:
        load_extractor("digits", path, CPU)
    one_line(raised.value)
