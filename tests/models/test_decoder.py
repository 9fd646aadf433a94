import torch

from goc.models.decoder import to_uint8


def test_uint8_conversion_truncates_and_clamps() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.0078, 0.00785, 0.9999, 1.0, 3.0])
    # 127.5 x + 128, truncated: -1 -> 0.5 -> 0, 0 -> 128, 0.0078 -> 128.99 -> 128, 0.00785 -> 129.0009 -> 129
    assert to_uint8(values).tolist() == [0, 0, 128, 128, 129, 255, 255, 255]
