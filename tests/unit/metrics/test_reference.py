import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import nhwc
from PIL import Image
from real_data import real_digits
from refusals import Malicious
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from goc.cli.reference import main
from goc.metrics.evaluate import evaluate
from goc.metrics.features import Extractor, Features, load_extractor
from goc.metrics.reference import Reference, load_reference, save_reference
from goc.models.decoder import to_uint8
from goc.system.command import run_command
from goc.system.errors import GocError
from goc.system.files import ASSETS, file_sha256

CPU = torch.device("cpu")
WEIGHTS = file_sha256(ASSETS / "digits" / "extractor.safetensors")

Load = Callable[..., Reference]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("digits", None, CPU)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Real digits, uint8 [150, 1, 8, 8]: more than two batches."""
    return to_uint8(real_digits()[0][:150])


@pytest.fixture(scope="module")
def features(digits: Tensor, extractor: Extractor) -> Features:
    return extractor.extract(digits)


@pytest.fixture
def load(extractor: Extractor, tmp_path: Path) -> Load:
    """load_reference for the digits extractor, with features, kept in tmp_path/cache."""

    def call(path: Path, image_size: int | None = 8, need_features: bool = True, cache: bool = True) -> Reference:
        cache_dir = tmp_path / "cache" if cache else None
        return load_reference(path, extractor, image_size, need_features, cache_dir)

    return call


@pytest.fixture
def no_extraction(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, no image's features are extracted."""

    def forbid() -> None:
        def extract(*_: object) -> Features:
            raise AssertionError("features are extracted")

        monkeypatch.setattr(Extractor, "extract", extract)

    return forbid


def write_folder(folder: Path, images: Tensor) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:04}.png")
    return folder


def write_adm(path: Path, features: Features, **others: np.ndarray) -> Path:
    """An .npz in ADM's form with the statistics of features; `others` replace or add members, None leaves one out."""
    rows = features.features.double().numpy()
    members = {"mu": rows.mean(axis=0), "sigma": np.cov(rows, rowvar=False), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    np.savez(path, **{key: value for key, value in (members | others).items() if value is not None})
    return path


def assert_is_of(reference: Reference, features: Features) -> None:
    rows = features.features.double().numpy()
    np.testing.assert_allclose(reference.mu, rows.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(reference.sigma, np.cov(rows, rowvar=False), rtol=1e-5, atol=1e-5)
    assert reference.mu.dtype == reference.sigma.dtype == np.float64


def refusal(load: Load, path: Path, **options: int | None) -> str:
    """What is said of a reference that is refused, behind its path: one line."""
    with pytest.raises(GocError) as raised:
        load(path, **options)
    text = str(raised.value)
    assert text.startswith(f"model.reference={path}: ")
    assert "\n" not in text
    return text.removeprefix(f"model.reference={path}: ")


def test_the_shipped_reference_is_the_real_images_features(extractor: Extractor, load: Load) -> None:
    path = ASSETS / "digits" / "reference.safetensors"
    features = extractor.extract(to_uint8(real_digits()[0]))
    reference = load(path)
    assert reference.features is not None
    torch.testing.assert_close(features.features, reference.features, rtol=1e-3, atol=1e-3)
    assert evaluate(["fid"], lambda: iter([features]), 1797, reference).values["fid"] == pytest.approx(0, abs=1e-3)
    assert reference.sha256 == file_sha256(path)
    assert load(path, need_features=False).features is None


def test_a_saved_reference_is_read_back(tmp_path: Path, features: Features, load: Load) -> None:
    path = write_adm(tmp_path / "adm.npz", features)
    made = replace(load(path), features=features.features, extractor_sha256=WEIGHTS, image_size=8)
    saved = tmp_path / "saved.safetensors"
    save_reference(saved, made)
    read = load(saved)
    assert read.sha256 == file_sha256(saved)
    assert (read.extractor, read.extractor_sha256, read.image_size) == ("digits", WEIGHTS, 8)
    for name in ("mu", "sigma", "mu_s", "sigma_s"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert read.features is not None
    assert read.features.equal(features.features)
    assert load(saved, need_features=False).features is None


def test_a_saved_reference_of_another_extractor_weights_or_size_is_one_line(
    tmp_path: Path, features: Features, load: Load
) -> None:
    made = replace(load(write_adm(tmp_path / "adm.npz", features)), extractor_sha256=WEIGHTS, image_size=8)
    path = tmp_path / "saved.safetensors"
    for change, text in (
        ({"extractor": "inception"}, "made with the extractor inception, not with digits"),
        (
            {"extractor_sha256": "0" * 64},
            f"made with other weights of digits (SHA-256 000000000000..., here {WEIGHTS[:12]}",
        ),
        ({"image_size": 16}, "of images of 16x16 pixels, not 8x8"),
    ):
        save_reference(path, replace(made, **change))
        assert refusal(load, path).startswith(text)


def test_a_missing_reference_says_where_it_was_looked_for_and_how_to_get_it(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal(load, Path("nowhere.npz"))
    assert str(tmp_path / "nowhere.npz") in text
    assert "goc fetch" in text


def test_adms_statistics_are_taken_as_they_are(
    tmp_path: Path, features: Features, load: Load, no_extraction: Callable[[], None], digits: Tensor
) -> None:
    no_extraction()
    path = write_adm(tmp_path / "adm.npz", features, arr_0=nhwc(digits))
    reference = load(path, need_features=False)
    assert_is_of(reference, features)
    assert reference.extractor_sha256 is None
    assert reference.image_size == 8
    assert reference.sha256 == file_sha256(path)
    np.testing.assert_array_equal(reference.sigma_s, np.eye(3))


def test_float32_statistics_become_float64(tmp_path: Path, features: Features, load: Load) -> None:
    mu = features.features.numpy().mean(axis=0)
    reference = load(write_adm(tmp_path / "adm.npz", features, mu=mu), need_features=False)
    assert reference.mu.dtype == np.float64
    np.testing.assert_array_equal(reference.mu, mu)


@pytest.mark.parametrize("compressed", [False, True])
def test_features_of_adms_images_are_extracted_once(
    tmp_path: Path,
    digits: Tensor,
    features: Features,
    load: Load,
    no_extraction: Callable[[], None],
    compressed: bool,
) -> None:
    path = write_adm(tmp_path / "adm.npz", features, mu=features.features[:9].double().numpy().mean(axis=0))
    with np.load(path) as file:
        members = dict(file)
    (np.savez_compressed if compressed else np.savez)(path, **members, arr_0=nhwc(digits))
    first = load(path)
    assert first.features is not None
    torch.testing.assert_close(first.features, features.features, rtol=1e-5, atol=1e-5)
    # the file's statistics are of other images than arr_0, as ADM's are: they stay
    np.testing.assert_array_equal(first.mu, members["mu"])
    no_extraction()
    again = load(path)
    assert again.features is not None
    assert again.features.equal(first.features)
    np.testing.assert_array_equal(again.mu, members["mu"])


def test_images_alone_make_a_reference(tmp_path: Path, digits: Tensor, features: Features, load: Load) -> None:
    np.savez(tmp_path / "samples.npz", nhwc(digits))
    assert_is_of(load(tmp_path / "samples.npz"), features)


def test_images_without_a_cache_folder_are_extracted_each_time(
    tmp_path: Path, digits: Tensor, features: Features, load: Load
) -> None:
    folder = write_folder(tmp_path / "images", digits)
    assert_is_of(load(folder, cache=False), features)
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_images_is_a_reference(
    tmp_path: Path, digits: Tensor, features: Features, load: Load, no_extraction: Callable[[], None]
) -> None:
    folder = write_folder(tmp_path / "images", digits)
    (folder / "README.txt").write_text("not an image")
    first = load(folder)
    assert_is_of(first, features)
    assert first.features is not None
    torch.testing.assert_close(first.features, features.features, rtol=1e-5, atol=1e-5)
    assert (first.extractor_sha256, first.image_size) == (WEIGHTS, 8)

    no_extraction()
    again = load(folder)
    assert again.sha256 == first.sha256
    np.testing.assert_array_equal(again.sigma, first.sigma)
    # elsewhere, the same images are the same reference
    folder.rename(tmp_path / "moved")
    assert load(tmp_path / "moved").path == tmp_path / "moved"


def test_another_image_in_the_folder_makes_another_reference(tmp_path: Path, digits: Tensor, load: Load) -> None:
    folder = write_folder(tmp_path / "images", digits[:9])
    before = load(folder)
    Image.fromarray(digits[20, 0].numpy()).save(folder / "0003.png")
    after = load(folder)
    assert after.sha256 != before.sha256
    assert not np.array_equal(after.mu, before.mu)


def test_images_in_subfolders_count(tmp_path: Path, digits: Tensor, load: Load) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write_folder(folder / "b", digits[:5])
    write_folder(folder / "a", digits[5:9])
    features = load(folder).features
    assert features is not None
    assert len(features) == 9


def test_what_is_kept_is_made_again_if_damaged_or_of_other_images_by_its_name(
    tmp_path: Path, digits: Tensor, features: Features, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "images", digits)
    load(folder)
    (kept,) = (tmp_path / "cache").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert_is_of(load(folder), features)
    assert "made again" in caplog.text
    caplog.clear()
    load(write_folder(tmp_path / "others", 255 - digits))
    (other,) = set((tmp_path / "cache").glob("*.safetensors")) - {kept}
    shutil.copy(other, kept)
    assert_is_of(load(folder), features)
    assert f"{kept.name} is of other images" in caplog.text
    caplog.clear()
    tensors = load_file(kept)
    tensors["mu"] += 1.0
    with safe_open(kept, framework="pt") as file:
        save_file(tensors, kept, file.metadata())
    assert_is_of(load(folder), features)
    assert "checksum does not match" in caplog.text
    caplog.clear()
    assert_is_of(load(folder), features)
    assert "made again" not in caplog.text


def test_a_saved_reference_that_was_changed_is_refused_and_one_of_an_older_version_warned_of(
    tmp_path: Path, digits: Tensor, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    saved = tmp_path / "saved.safetensors"
    save_reference(saved, load(write_folder(tmp_path / "images", digits)))
    load(saved)
    assert "older version" not in caplog.text
    with safe_open(saved, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(saved)
    save_file({name: tensor + (name == "mu") for name, tensor in tensors.items()}, saved, header)
    with pytest.raises(GocError, match="checksum does not match"):
        load(saved)
    save_file(tensors, saved, {name: value for name, value in header.items() if name not in ("sha256", "pixels")})
    load(saved)
    assert "made by an older version" in caplog.text


def test_the_first_image_of_another_size_is_named(tmp_path: Path, digits: Tensor, load: Load) -> None:
    folder = write_folder(tmp_path / "images", digits[:9])
    Image.new("L", (16, 8)).save(folder / "0005.png")
    for size in (8, None):
        offered = "; `goc reference --crop adm --size 8` takes images of any size"
        assert refusal(load, folder, image_size=size) == f"0005.png is 16x8 pixels, not 8x8{offered}"
    assert refusal(load, folder, image_size=16).startswith("0000.png is 8x8 pixels, not 16x16")


def test_a_folder_without_images_is_one_line(tmp_path: Path, load: Load) -> None:
    assert refusal(load, tmp_path) == "0 images there, at least 2 are needed"


@pytest.mark.parametrize("member", ["mu", "arr_0"])
def test_a_pickle_in_an_npz_is_refused(tmp_path: Path, features: Features, load: Load, member: str) -> None:
    trace = tmp_path / "trace"
    pickled = np.array([Malicious(trace), None], dtype=object)
    path = write_adm(tmp_path / "adm.npz", features, **{member: pickled})
    refusal(load, path)
    assert not trace.exists()


def test_a_pickle_by_the_name_of_an_npz_or_its_own_is_refused(tmp_path: Path, load: Load) -> None:
    trace = tmp_path / "trace"
    for name in ("stats.npz", "stats.pkl", "stats.pth", "stats.safetensors"):
        torch.save({"mu": Malicious(trace)}, tmp_path / name)
        refusal(load, tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "flipped"])
def test_a_damaged_npz_is_one_line(tmp_path: Path, digits: Tensor, features: Features, load: Load, damage: str) -> None:
    path = write_adm(tmp_path / "adm.npz", features, arr_0=nhwc(digits))
    content = bytearray(path.read_bytes())
    content[content.index(b"arr_0.npy") + 4000] ^= 1  # a pixel
    damaged = {"empty": b"", "garbage": b"hello there", "truncated": content[:-5000], "flipped": content}
    path.write_bytes(damaged[damage])
    assert refusal(load, path).startswith("damaged, or not an .npz file")
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_the_command_line_saves_what_a_run_then_loads(
    tmp_path: Path, digits: Tensor, features: Features, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_folder(tmp_path / "images", digits), tmp_path / "new" / "stats.safetensors"
    assert main([str(folder), "--extractor", "digits", "--out", str(out)]) == 0
    assert f"{out}: statistics on digits, features of 150 images" in capsys.readouterr().out
    reference = load(out)
    assert_is_of(reference, features)
    assert (reference.extractor_sha256, reference.image_size) == (WEIGHTS, 8)


def test_the_command_line_makes_inceptions_statistics_with_the_spatial_ones(
    tmp_path: Path, inception_file: Path
) -> None:
    images = torch.randint(0, 256, (3, 12, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "images.npz", images.numpy())
    out = tmp_path / "stats.safetensors"
    assert main([str(tmp_path / "images.npz"), "--weights", str(inception_file), "--out", str(out)]) == 0
    extractor = load_extractor("inception", inception_file, CPU)
    reference = load_reference(out, extractor, 12, need_features=True, cache_dir=None)
    expected = extractor.extract(images.permute(0, 3, 1, 2)).spatial
    assert expected is not None
    assert reference.mu_s is not None
    assert reference.sigma_s is not None
    np.testing.assert_allclose(reference.mu_s, expected.double().mean(dim=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reference.sigma_s, np.cov(expected.double().T), rtol=1e-4, atol=1e-6)


def test_the_command_lines_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [str(tmp_path), "--extractor", "digits", "--out", str(tmp_path / "stats.safetensors")],
        [str(tmp_path), "--extractor", "digits", "--out", str(tmp_path / "stats.npz")],
        [str(tmp_path), "--weights", str(tmp_path / "none"), "--out", str(tmp_path / "stats.safetensors")],
    ):
        assert run_command(partial(main, arguments)) == 1
        text = capsys.readouterr().err
        assert text.startswith("error: ")
        assert text.count("\n") == 1
