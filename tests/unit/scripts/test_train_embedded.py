"""Training the embedded models: what is learnt goes down, and a training that was stopped goes on."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_embedded
from safetensors.torch import load_file
from torch import Tensor
from train_embedded import RECIPES, make_denoiser, make_extractor, make_second

from goc.metrics.embedded import Classifier, Contrasted


def few(size: int) -> tuple[Tensor, Tensor]:
    """Forty images of noise, four of each class, whose brightness tells the class."""
    labels = torch.arange(10).repeat(4)
    noise = torch.rand(40, 1, size, size, generator=torch.Generator().manual_seed(0))
    return 0.2 * noise + labels.view(-1, 1, 1, 1) / 5 - 1, labels


@pytest.fixture(autouse=True, params=RECIPES)
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of data, with few images, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    recipe = RECIPES[request.param]
    epochs = {"extractor_epochs": 1, "second_epochs": 1}
    small = replace(recipe, real=lambda folder: few(recipe.input_size), batch_size=4, held_out=0.25, **epochs)
    monkeypatch.setitem(RECIPES, request.param, small)
    monkeypatch.setattr(train_embedded, "KEEP_EVERY", 2)
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["diffusion", "flow"])
def test_a_training_that_was_stopped_makes_the_same_denoiser(
    name: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    make_denoiser(name, objective, 4, 0, tmp_path / "whole")
    kept = tmp_path / train_embedded.CACHE_DIR
    assert not list(kept.glob("*.safetensors"))

    steps: list[object] = []
    loss = f"{objective}_loss"
    compute_loss = getattr(train_embedded, loss)

    def fails_once(*arguments: object) -> Tensor:
        steps.append(arguments)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return compute_loss(*arguments)

    monkeypatch.setattr(train_embedded, loss, fails_once)
    with pytest.raises(KeyboardInterrupt):
        make_denoiser(name, objective, 4, 0, tmp_path / "parts")
    assert len(list(kept.glob("*.safetensors"))) == 1
    make_denoiser(name, objective, 4, 0, tmp_path / "parts")
    assert len(steps) == 4 + 2  # two were kept
    whole, parts = (load_file(tmp_path / folder / f"{objective}-0.safetensors") for folder in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_an_extractor_comes_with_the_features_that_it_gives(name: str, tmp_path: Path) -> None:
    make_extractor(name, 0, tmp_path)
    recipe = RECIPES[name]
    features = load_file(tmp_path / "reference.safetensors")["features"]
    assert features.shape == (10 if recipe.reference_held_out else 40, 64)
    weights = load_file(tmp_path / "extractor.safetensors")
    assert {tensor.dtype for tensor in (features, *weights.values())} == {recipe.precision}
    Classifier(name).load_state_dict(weights)


def test_the_second_extractor_comes_with_its_features_too(name: str, tmp_path: Path) -> None:
    make_second(name, 0, tmp_path)
    weights = load_file(tmp_path / "simclr.safetensors")
    Contrasted(f"{name}_simclr").load_state_dict(weights)
    recipe = RECIPES[name]
    features = load_file(tmp_path / "reference-simclr.safetensors")["features"]
    assert features.shape == (10 if recipe.reference_held_out else 40, 32)
    assert {tensor.dtype for tensor in (features, *weights.values())} == {torch.float16}


def test_the_contrast_is_least_where_views_of_one_image_are_alike() -> None:
    """NT-Xent of two pairs, orthogonal to each other, by hand: log(1 + 2 exp(-1 / temperature))."""
    views = torch.eye(2)
    expected = torch.tensor(1 + 2 * math.exp(-1 / train_embedded.TEMPERATURE)).log()
    assert train_embedded.contrast(views, 3 * views).item() == pytest.approx(expected.item(), rel=1e-5)
    assert train_embedded.contrast(views, views.flip(0)) > 2
