"""Agreement with the authors' own implementations, number by number (shared/oracles*/README.md)."""

from pathlib import Path

import pytest
import torch
from checkout import oracle_folders

from goc.check.oracles import agreement, oracle_files


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = oracle_files(oracle_folders(metafunc.config))
    metafunc.parametrize("path", cases or [None], ids=[path.stem for path in cases] or ["no oracles"])


def test_trajectory_equals_the_authors(path: Path | None) -> None:
    if path is None:
        pytest.skip("the folder given by --oracles is absent")
    for row in agreement(path, torch.device("cpu")):
        assert row["largest_difference"] <= row["tolerance"], row["predictor"]
        assert row["different"] == ""
