from pathlib import Path

import numpy as np
import pytest
import torch

from goc.cli import fetch
from goc.metrics import lpips
from goc.metrics.distance import distance
from goc.system.errors import GocError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_without_weights_lpips_is_left_out_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert lpips.load_lpips(3, 256, CPU) is None
    (line,) = caplog.messages
    assert line.startswith("lpips is left out")
    assert "goc fetch lpips" in line


def test_images_that_lpips_is_not_for_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert lpips.load_lpips(1, 256, CPU) is None
    assert lpips.load_lpips(3, 8, CPU) is None
    assert not caplog.messages


def test_the_weights_are_looked_for_where_they_are_fetched(tmp_path: Path) -> None:
    for file in fetch.FILES:
        if file.item == "lpips":
            path = tmp_path / "weights" / file.destination
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"damaged")
    assert lpips.find_lpips() == Path("weights/lpips")
    with pytest.raises(GocError, match=r"weights/lpips: not LPIPS's weights, or damaged \(truncated"):
        lpips.load_lpips(3, 256, CPU)


def test_the_hash_is_of_both_files_and_there_is_none_without_them(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "lpips" / "checkpoints"
    folder.mkdir(parents=True)
    first, second = (folder / name for name in lpips.FILES)
    first.write_bytes(b"linear")
    assert lpips.lpips_sha256() is None
    second.write_bytes(b"vgg")
    before = lpips.lpips_sha256()
    assert before is not None
    for path in (first, second):
        content = path.read_bytes()
        path.write_bytes(content + b"!")
        assert lpips.lpips_sha256() != before
        path.write_bytes(content)
    assert lpips.lpips_sha256() == before


def test_a_perceptual_distance_is_averaged_with_its_error() -> None:
    shard = {"latents": torch.ones(4, 3, 8, 8), "images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}
    measured, each = distance([(shard, shard)], lambda images, targets: np.arange(len(images), dtype=float))
    assert measured["lpips"] == 1.5
    assert measured["lpips_se"] == pytest.approx(1.25**0.5 / 2)
    assert each["lpips"].tolist() == [0, 1, 2, 3]
