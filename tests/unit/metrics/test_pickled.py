"""Statistics as EDM2 publishes them, in a pickle of which nothing is run."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import Malicious

from goc.metrics.features import Extractor, load_extractor
from goc.metrics.reference import load_reference
from goc.metrics.registry import EXTRACTORS
from goc.system.errors import GocError

SIZE = 32


@pytest.fixture
def dinov2() -> Extractor:
    """An extractor called dinov2 with few features: no network is run here."""
    kind = replace(EXTRACTORS["dinov2"], size=SIZE)
    other = load_extractor("digits_simclr", None, torch.device("cpu"))
    return replace(other, name="dinov2", kind=kind, setting="model.second_extractor")


def statistics() -> dict[str, dict[str, np.ndarray]]:
    rows = np.random.default_rng(0).normal(size=(100, SIZE))
    of_rows = {"mu": rows.mean(0), "sigma": np.cov(rows, rowvar=False)}
    return {"fid": {"mu": np.zeros(2048), "sigma": np.eye(2048)}, "fd_dinov2": of_rows}


@pytest.mark.parametrize("protocol", [4, 5])
def test_statistics_are_read_by_the_extractors_name(protocol: int, dinov2: Extractor, tmp_path: Path) -> None:
    content = {"num_images": 1281167, **statistics()}
    (path := tmp_path / "img512.pkl").write_bytes(pickle.dumps(content, protocol))
    reference = load_reference(path, dinov2, 512, need_features=False, cache_dir=None)
    for name, expected in content["fd_dinov2"].items():
        assert np.array_equal(getattr(reference, name), expected)
    assert reference.features is None


@pytest.mark.parametrize("kind", ["garbage", "empty", "code", "a list", "no dinov2", "no sigma", "another size"])
def test_what_is_no_such_file_is_one_line_and_runs_nothing(kind: str, dinov2: Extractor, tmp_path: Path) -> None:
    trace, whole = tmp_path / "trace", statistics()
    content: object = {
        "code": {**whole, "more": Malicious(trace)},
        "a list": [1, 2],
        "no dinov2": {"fid": whole["fid"]},
        "no sigma": {"fd_dinov2": {"mu": np.zeros(SIZE)}},
        "another size": {"fd_dinov2": whole["fid"]},
    }.get(kind)
    path = tmp_path / "img512.pkl"
    path.write_bytes({"garbage": b"hello there", "empty": b""}.get(kind, pickle.dumps(content)))
    with pytest.raises(GocError, match=rf"^model\.second_reference={path}: ") as raised:
        load_reference(path, dinov2, 512, need_features=False, cache_dir=None)
    assert "\n" not in str(raised.value)
    assert not trace.exists()
