"""Statistics of images of any size, by ADM's center crop: the crop, and that reading them can be stopped and shared."""

import io
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import saved
from PIL import Image
from safetensors.torch import load_file

from goc.cli.reference import main
from goc.metrics import extraction
from goc.metrics.crop import center_crop
from goc.metrics.extraction import Sums
from goc.metrics.features import Extractor, Features
from goc.metrics.real_images import EXTRACTION_BATCH, folder_images
from goc.metrics.statistics import Moments
from goc.system.command import run_command
from goc.system.errors import GocError
from goc.system.sealed import sealed, unsealed
from goc.system.threads import AHEAD, in_order

RANDOM = np.random.default_rng(0)
COUNT = 2 * EXTRACTION_BATCH + 22


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0])


def box(x: float) -> float:
    return float(-0.5 < x <= 0.5)


def bicubic(x: float) -> float:
    """Keys' kernel with a = -1/2."""
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resampled(rows: np.ndarray, size: int, kernel: Callable[[float], float], support: float) -> np.ndarray:
    """The first axis at another size: each value a weighted mean around its place, wider where there are fewer."""
    scale = len(rows) / size
    wide = max(scale, 1.0)
    resized = np.empty((size, *rows.shape[1:]))
    for i in range(size):
        center = (i + 0.5) * scale
        first, last = max(0, int(center - support * wide + 0.5)), min(len(rows), int(center + support * wide + 0.5))
        weights = np.array([kernel((j + 0.5 - center) / wide) for j in range(first, last)])
        resized[i] = np.tensordot(weights / weights.sum(), rows[first:last], axes=1)
    return np.floor(resized.clip(0, 255) + 0.5)


def resized(
    pixels: np.ndarray, width: int, height: int, kernel: Callable[[float], float], support: float
) -> np.ndarray:
    across = pixels if width == pixels.shape[1] else resampled(pixels.swapaxes(0, 1), width, kernel, support)
    pixels = pixels if width == pixels.shape[1] else across.swapaxes(0, 1)
    return pixels if height == len(pixels) else resampled(pixels, height, kernel, support)


def restated(pixels: np.ndarray, size: int) -> np.ndarray:
    """ADM's crop of [H, W, 3], filter by filter."""
    height, width = pixels.shape[:2]
    pixels = pixels.astype(float)
    for _ in range(max(0, math.floor(math.log2(min(width, height) / size)))):
        width, height = width // 2, height // 2
        pixels = resized(pixels, width, height, box, 0.5)
    short = min(width, height)
    width, height = round(width * size / short), round(height * size / short)
    pixels = resized(pixels, width, height, bicubic, 2.0)
    return pixels[(height - size) // 2 :, (width - size) // 2 :][:size, :size]


@pytest.mark.parametrize("sides", [(8, 8), (9, 8), (8, 13), (15, 31), (16, 16), (17, 40), (33, 47), (64, 70), (5, 7)])
def test_the_crop_is_adms(sides: tuple[int, int]) -> None:
    image = noise(*sides)
    cropped = np.asarray(center_crop(image, 8)).astype(float)
    assert cropped.shape == (8, 8, 3)
    # Pillow counts in 8 bits and fixed point between its passes
    assert np.abs(cropped - restated(np.asarray(image), 8)).max() <= 1


def test_an_image_of_the_size_stays_and_one_enlarged_by_a_power_of_two_comes_back() -> None:
    small = np.asarray(noise(11, 8))
    for factor in (1, 2, 4, 8):
        large = Image.fromarray(small.repeat(factor, axis=0).repeat(factor, axis=1))
        assert np.array_equal(np.asarray(center_crop(large, 8)), small[:, 1:9])


def test_what_adms_loader_reads_is_read_as_it_does_and_said(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "a/grey.JPEG": saved(noise(20, 30, 1), "JPEG"),
        "a/cmyk.JPEG": saved(noise(30, 20).convert("CMYK"), "JPEG"),
        "b/turned.JPEG": saved(noise(40, 20), "JPEG", exif=turned),
        "b/a_png.JPEG": saved(noise(9, 9, 4), "PNG"),
        "b/palette.gif": saved(noise(17, 21).quantize(16), "GIF"),
    }
    for name, of in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(of)
    images = folder_images(tmp_path, 3, 8, crop="adm", workers=3)
    (batch,) = images.batches()
    for name, pixels in zip(sorted(files), batch, strict=True):
        expected = center_crop(Image.open(io.BytesIO(files[name])).convert("RGB"), 8)
        assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(expected)), name
    assert [note.split(",")[0] for note in images.notes] == [
        "1 of its images are CMYK",
        "1 of its images have an alpha channel",
        "1 of its images are to be turned when shown (EXIF)",
    ]
    hashes = {folder_images(tmp_path, 3, size, crop="adm").sha256 for size in (8, 9)}
    assert len(hashes) == 2
    assert images.sha256 in hashes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images of many sizes, in folders of classes."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        place = folder / f"class{index // 50}"
        place.mkdir(exist_ok=True)
        noise(8 + index % 13, 8 + index % 17, 1).save(place / f"{index}.png")
    return folder


def made(folder: Path, out: Path, *more: str) -> bytes:
    options = ["--extractor", "digits", "--crop", "adm", "--size", "8", "--out", str(out), *more]
    assert main([str(folder), *options]) == 0
    return out.read_bytes()


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made(folder, tmp_path_factory.mktemp("whole") / "stats.safetensors", "--workers", "1")


def test_more_workers_make_the_same_bytes(folder: Path, tmp_path: Path, whole: bytes) -> None:
    assert made(folder, tmp_path / "stats.safetensors", "--workers", "3") == whole


def test_single_images_features_are_kept_evenly(folder: Path, tmp_path: Path, whole: bytes) -> None:
    made(folder, tmp_path / "few.safetensors", "--features", "40")
    (tmp_path / "all.safetensors").write_bytes(whole)
    few, every = (load_file(tmp_path / f"{name}.safetensors") for name in ("few", "all"))
    assert torch.equal(few["features"], every["features"][::4])
    assert torch.equal(few["sigma"], every["sigma"])


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> list[int]:
    """Whatever is extracted is saved at once, and that many batches are. Returns the sizes of those extracted."""
    extract, sizes = Extractor.extract, list[int]()

    def extracting(self: Extractor, images: torch.Tensor) -> Features:
        if len(sizes) == batches:
            raise GocError("stopped")
        sizes.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(extraction, "SAVED_EVERY_S", 0)
    monkeypatch.setattr(extraction, "LEAST_WORK", 0)
    monkeypatch.setattr(Extractor, "extract", extracting)
    return sizes


def stopped_copy(folder: Path, to: Path, out: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes) -> Path:
    """A copy of the images whose statistics were stopped after two batches."""
    shutil.copytree(folder, to)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(GocError, match="stopped"):
            made(to, out)
    assert not out.exists()
    return to


def test_what_was_stopped_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    copy, out = tmp_path / folder.name, tmp_path / "stats.safetensors"
    stopped_copy(folder, copy, out, monkeypatch, whole)
    with caplog.at_level(logging.WARNING):
        sizes = stop_after(monkeypatch, 9)
        assert made(copy, out) == whole
    assert sum(sizes) == COUNT - 2 * EXTRACTION_BATCH
    assert f"goes on after {2 * EXTRACTION_BATCH} of {COUNT} images" in caplog.text
    assert [path.name for path in out.parent.glob("*stats*")] == [out.name]


@pytest.mark.parametrize(("changed", "again"), [("class0/0.png", True), ("class2/149.png", False)])
def test_only_if_what_was_read_has_changed_all_is_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, changed: str, again: bool
) -> None:
    """The names sort as class0/0, class0/1, class0/10, ...; 149 is among those that were not read yet."""
    copy, out = tmp_path / folder.name, tmp_path / "stats.safetensors"
    stopped_copy(folder, copy, out, monkeypatch, whole)
    (copy / changed).write_bytes(saved(noise(30, 20, 1), "PNG"))
    sizes = stop_after(monkeypatch, 9)
    digest = made(copy, out)
    assert sum(sizes) == (COUNT if again else COUNT - 2 * EXTRACTION_BATCH)
    assert digest == made(copy, tmp_path / "anew.safetensors") != whole


def test_sums_of_spatial_features_go_on_too(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [Features(*(torch.randn(n, size, generator=generator) for size in (4, 2, 3))) for n in (6, 6, 5)]

    def empty() -> Sums:
        return Sums(Moments(4), Moments(3), torch.zeros(6, 4), every=3)

    whole, first, rest = empty(), empty(), empty()
    for batch in batches:
        whole.add(batch)
    for batch in batches[:2]:
        first.add(batch)
    (tmp_path / "sums").write_bytes(sealed(first.tensors(), "a key"))
    rest.go_on_from(unsealed(tmp_path / "sums", "a key"))
    rest.add(batches[2])
    assert rest.count == rest.spatial.count == 17
    assert all(torch.equal(tensor, rest.tensors()[name]) for name, tensor in whole.tensors().items())
    assert torch.equal(whole.features, torch.cat([batch.features for batch in batches])[::3])


def test_a_truncated_image_is_named_with_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images" / "n01").mkdir(parents=True)
    for name in ("a.JPEG", "b.JPEG", "c.JPEG"):
        whole = saved(noise(90, 80, 1), "JPEG")
        (tmp_path / "images" / "n01" / name).write_bytes(whole[:3000] if name == "b.JPEG" else whole)
    options = ["--extractor", "digits", "--crop", "adm", "--size", "8", "--out", str(tmp_path / "stats.safetensors")]
    assert run_command(partial(main, [str(tmp_path / "images"), *options])) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: model.reference={tmp_path / 'images'}: n01/b.JPEG is damaged or no image")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--crop adm", "error: --crop=adm: needs --size too"),
        ("--size 8", "error: --size=8: needs --crop too"),
        ("--crop adm --size 0", "error: --size=0: must be at least 1"),
        ("--features 0", "error: --features=0: must be at least 1"),
        ("--workers 0", "error: --workers=0: must be at least 1"),
        (
            "--crop adm --size 9",
            "error: model.extractor=digits: takes images of 1 channel, 8x8 pixels; these",
        ),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    out = ["--extractor", "digits", "--out", str(tmp_path / "stats.safetensors")]
    assert run_command(partial(main, [str(folder), *out, *arguments.split()])) == 1
    assert capsys.readouterr().err.startswith(message)


def test_results_of_threads_come_in_order_and_few_wait() -> None:
    taken, begun = 0, 0

    def items() -> Iterator[int]:
        nonlocal begun
        for begun in range(1000):  # noqa: UP028  # what was taken is counted
            yield begun

    for taken, result in enumerate(in_order(lambda item: 2 * item, items(), workers=2)):
        assert result == 2 * taken
        assert begun - taken <= 2 * AHEAD
    assert taken == 999


def test_the_first_error_of_a_thread_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 / (item - 3), range(100), workers=2))
