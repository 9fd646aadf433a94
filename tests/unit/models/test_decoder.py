from pathlib import Path

import huggingface_hub
import pytest
import torch

from goc.models.decoder import find_vae, to_uint8
from goc.system.errors import GocError


def test_uint8_conversion_truncates_and_clamps() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.0078, 0.00785, 0.9999, 1.0, 3.0])
    # 127.5 x + 128, truncated: -1 -> 0.5 -> 0, 0 -> 128, 0.0078 -> 128.99 -> 128, 0.00785 -> 129.0009 -> 129
    assert to_uint8(values).tolist() == [0, 0, 128, 128, 129, 255, 255, 255]


def test_a_published_autoencoder_from_the_hub_must_be_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / name).write_text("another one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(
        GocError, match=r"config.json: expected SHA-256 92d3dfb7\w+ \(published\), found \w{64}; delete it"
    ):
        find_vae("ema")
    assert find_vae("somebody/else") == tmp_path
