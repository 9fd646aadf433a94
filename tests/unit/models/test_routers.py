import argparse
import json
import os
from pathlib import Path

import pytest
import torch

from goc.caching.schedule import cache_ratio_of, l2c, smoothcache
from goc.models.routers import load_router, save_router
from goc.system.errors import GocError


def test_the_published_router_caches_22_percent_at_threshold_0_1(published_data: Path) -> None:
    mask = l2c(load_router(published_data / "DDIM20_router.pt", 20, 28), 0.1)
    assert cache_ratio_of(mask) == pytest.approx(0.221, abs=5e-4)
    assert not mask[::2].any()
    assert load_router(published_data / "DDIM50_router.pt", 50, 28).shape == (50, 28, 2)


def test_published_smoothcache_files_are_read(published_data: Path) -> None:
    read = {}
    for path in sorted(published_data.glob("*.json")):
        mask = smoothcache(json.loads(path.read_text()), 28)
        read[path.stem] = len(mask), round(cache_ratio_of(mask), 3)
    # the share of zeros in each file
    assert read == {
        "30-N-3-threshold-0.35": (30, 0.467),
        "50-N-2-l2c": (50, 0.237),
        "50-N-3-threshold-0.18": (50, 0.52),
    }


def test_a_router_for_another_model_or_number_of_steps_is_one_line(published_data: Path) -> None:
    with pytest.raises(GocError, match=r"DDIM20_router\.pt: is for 20 steps, not for steps=50$"):
        load_router(published_data / "DDIM20_router.pt", 50, 28)
    with pytest.raises(GocError, match=r"DDIM20_router\.pt: is for a model of depth 28, not 12$"):
        load_router(published_data / "DDIM20_router.pt", 20, 12)


def test_routers_are_written_in_the_format_they_are_read_in(tmp_path: Path) -> None:
    logits = torch.randn(5, 3, 2)
    save_router(tmp_path / "r.pt", logits, argparse.Namespace(model="x"))
    torch.testing.assert_close(load_router(tmp_path / "r.pt", 5, 3), logits.sigmoid())
    with torch.serialization.safe_globals([argparse.Namespace]):
        raw = torch.load(tmp_path / "r.pt", weights_only=True)
    assert raw.keys() == {"routers", "opt", "args"}
    assert raw["routers"]["2.prob"].tolist() == logits[2].flatten().tolist()


def test_a_router_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"routers": {"0.prob": Malicious()}}, tmp_path / "r.pt")
    with pytest.raises(GocError, match="not a router checkpoint"):
        load_router(tmp_path / "r.pt", 1, 1)
    assert not (tmp_path / "pwned").exists()


def test_a_missing_or_wrong_router_is_one_line(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "r.pt")
    for path in (tmp_path / "r.pt", tmp_path / "nowhere.pt"):
        with pytest.raises(GocError, match="not a router checkpoint") as error:
            load_router(path, 1, 1)
        assert "\n" not in str(error.value)
