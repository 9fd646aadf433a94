"""Networks of timm as extractors; DINOv2's features are those of its authors' own code, and its images dgm-eval's."""

from pathlib import Path

import pytest
import timm
import torch
from closeness import assert_near, relative_difference
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms

from goc.metrics.backbones import Backbone, dinov2_backbone, published_positions
from goc.metrics.features import Extractor, load_extractor
from goc.system.errors import ConfigError, GocError

CPU = torch.device("cpu")
SIZE = 40  # pixels a side of the images


def images(channels: int = 3, count: int = 2) -> Tensor:
    """Random images of few frequencies, uint8."""
    coarse = torch.rand(count, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(coarse, SIZE, mode="bilinear").clamp(0, 1) * 255).to(torch.uint8)


def authors_network(width: int, depth: int, heads: int) -> nn.Module:
    """DINOv2 by its authors' code, as their hub makes it, with random weights that all have a say."""
    vit = pytest.importorskip(
        "dinov2.models.vision_transformer", reason="needs the authors' package: pip install --no-deps dinov2"
    )
    network = vit.DinoVisionTransformer(
        img_size=518, patch_size=14, init_values=1.0, block_chunks=0, embed_dim=width, depth=depth, num_heads=heads
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spread = 1.0 if parameter.ndim < 2 or "embed" in name or "token" in name else parameter[0].numel() ** -0.5
            parameter.normal_(std=spread, generator=generator)
    return network.eval()


def by_dgm_eval(pictures: Tensor) -> Tensor:
    """Images as dgm-eval hands them to DINOv2."""
    prepare = transforms.Compose([
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    return torch.stack([prepare(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in pictures])


@pytest.fixture(scope="module")
def authors() -> nn.Module:
    return authors_network(width=128, depth=3, heads=2)


@pytest.fixture(scope="module")
def weights(authors: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dinov2") / "dinov2.pth"
    torch.save(authors.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def dinov2(weights: Path) -> Extractor:
    return load_extractor("dinov2", weights, CPU, "model.second_extractor")


@torch.inference_mode()
def test_features_of_dinov2_are_its_authors(authors: nn.Module, dinov2: Extractor) -> None:
    """ViT-L/14 is the same code, wider and deeper."""
    expected = authors(by_dgm_eval(images()))
    features = dinov2.extract(images()).features
    assert features.shape == (2, 128)
    assert_near(features, expected, 1e-4)
    assert relative_difference(features[0], features[1]) > 0.01  # they depend on the image


@torch.inference_mode()
def test_positions_by_timms_own_rule_would_be_others(authors: nn.Module) -> None:
    from timm.layers import resample_abs_pos_embed

    assert isinstance(authors.pos_embed, Tensor)
    expected = authors.interpolate_pos_encoding(torch.zeros(1, 257, 128), 224, 224)
    assert_near(published_positions(authors.pos_embed, 16), expected, 1e-6)
    assert relative_difference(resample_abs_pos_embed(authors.pos_embed, [16, 16]), expected) > 0.1


@pytest.mark.nightly
@torch.inference_mode()
def test_features_of_vit_large_are_its_authors(tmp_path: Path) -> None:
    authors = authors_network(width=1024, depth=24, heads=16)
    torch.save(authors.state_dict(), tmp_path / "dinov2.pth")
    features = load_extractor("dinov2", tmp_path / "dinov2.pth", CPU).extract(images()).features
    assert_near(features, authors(by_dgm_eval(images())), 1e-4)


def test_another_width_than_vit_larges_is_said(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    dinov2_backbone(weights)
    assert "width 128; FD-DINOv2 is of ViT-L/14, 1024 wide" in caplog.text


def test_grey_images_are_three_equal_channels(dinov2: Extractor) -> None:
    grey = images(channels=1)
    assert torch.equal(dinov2.extract(grey).features, dinov2.extract(grey.expand(-1, 3, -1, -1)).features)


@pytest.fixture(scope="module")
def small() -> tuple[str, nn.Module]:
    """A small network of timm, with random weights and a classifier, as its published file has one."""
    torch.manual_seed(0)
    return "mobilenetv3_small_050", timm.create_model("mobilenetv3_small_050", pretrained=False).eval()


@torch.inference_mode()
def test_any_network_of_timm_is_an_extractor_by_its_own_data_config(
    small: tuple[str, nn.Module], tmp_path: Path
) -> None:
    name, network = small
    save_file(network.state_dict(), path := tmp_path / "weights.safetensors")
    extractor = load_extractor(f"timm:{name}", path, CPU)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    ready = torch.stack([prepare(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in images()])
    expected = network.forward_head(network.forward_features(ready), pre_logits=True)
    features = extractor.extract(images())
    assert features.features.shape == (2, extractor.kind.size)
    assert features.logits is None
    assert_near(features.features, expected, 1e-5)
    assert extractor.identity["timm"] == f"{name} {timm.__version__}"
    assert isinstance(extractor.network, Backbone)


@pytest.mark.parametrize(
    ("name", "weights", "kind", "message"),
    [
        ("timm:nonsense", None, ConfigError, "model.extractor=timm:nonsense: must be timm: and the name of a network"),
        ("timm:vit_tiny", None, ConfigError, "a network of timm as .*vit_tiny"),
        ("timm:", None, ConfigError, "model.extractor=timm:: must be timm: and the name of a network of timm"),
        ("timm:vit_tiny_patch16_224", None, GocError, "model.extractor_weights=null: must be a file"),
        ("timm:vit_tiny_patch16_224", "no.pth", GocError, "model.extractor_weights=no.pth: no such file"),
        ("dinov2", "no.pth", GocError, "model.extractor_weights=no.pth: no such file .*goc fetch dinov2"),
        ("dinov2", None, GocError, "model.extractor=dinov2: its weights dinov2_vitl14_pretrain.pth are neither in"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    name: str, weights: str | None, kind: type, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(kind, match=message) as raised:
        load_extractor(name, None if weights is None else Path(weights), CPU)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, {"pos_embed": torch.zeros(1, 1370, 64)}])
def test_weights_of_another_network_are_one_line(content: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(content, path := tmp_path / "weights.safetensors")
    for name in ("dinov2", "timm:mobilenetv3_small_050"):
        with pytest.raises(GocError, match=f"model.extractor_weights={path}: not the weights of {name}") as raised:
            load_extractor(name, path, CPU)
        assert "\n" not in str(raised.value)
