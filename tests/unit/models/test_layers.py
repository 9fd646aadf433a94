"""DiT's layers are timm's, number by number, and the same in slices."""

from functools import partial

import pytest
import torch
from closeness import assert_near
from timm.layers import build_sincos2d_pos_embed
from timm.models import vision_transformer as timm
from torch import nn

from goc.models.layers import Attention, Mlp, PatchEmbed, sincos_positions

X = torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(0))
GELU = partial(nn.GELU, approximate="tanh")


@pytest.mark.parametrize(
    ("layer", "timms"),
    [
        (Attention(48, 3), timm.Attention(48, num_heads=3, qkv_bias=True)),
        (Mlp(48), timm.Mlp(48, hidden_features=192, act_layer=GELU)),
    ],
    ids=["attention", "mlp"],
)
def test_a_layer_is_timms_and_the_same_in_slices(layer: Attention | Mlp, timms: nn.Module) -> None:
    layer.load_state_dict(timms.state_dict())
    with torch.inference_mode():
        expected = timms(X)
        assert layer(X).equal(expected)
        assert_near(layer.in_slices(X), expected)


def test_patches_are_embedded_as_by_timms_convolution() -> None:
    timms, embedding = timm.PatchEmbed(8, 2, 3, 48), PatchEmbed(2, 3, 48)
    embedding.load_state_dict(timms.state_dict())
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_near(embedding(images), timms(images))


@pytest.mark.parametrize(("grid", "hidden_size"), [(4, 64), (16, 1152)])
def test_positions_are_timms(grid: int, hidden_size: int) -> None:
    assert sincos_positions(grid, hidden_size).equal(build_sincos2d_pos_embed([grid, grid], hidden_size))
