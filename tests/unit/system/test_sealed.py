"""Files that say what they are of: neither their name nor their being readable is trusted."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from goc.sampling.shared import shared_tensors
from goc.sampling.training import progress_of

MADE = {"values": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3.5, dtype=torch.float64),
        "none": torch.empty(0, dtype=torch.bool)}  # fmt: skip


def kept(folder: Path, key: dict[str, object], value: float) -> float:
    """What a file of this key holds, made with this value if it is not there."""
    made = {name: tensor + value if tensor.is_floating_point() else tensor for name, tensor in MADE.items()}
    return shared_tensors(folder, "alignment", key, set(MADE), lambda: made)["count"].item() - 3.5


def test_a_kept_file_of_another_run_or_a_changed_one_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine: dict[str, object] = {"seed": 1, "weights": (1.0, 0.5)}
    assert kept(tmp_path, mine, 0.0) == 0.0
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    assert kept(tmp_path, {"seed": 2}, 7.0) == 7.0
    (other,) = set(tmp_path.glob("*.safetensors")) - {file}
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for content, says in (
        (other.read_bytes(), "is of another run"),
        (bytes(flipped), "is damaged"),
        (b"", "is damaged"),
    ):
        file.write_bytes(content)
        caplog.clear()
        assert kept(tmp_path, mine, 0.0) == 0.0
        (record,) = caplog.records
        assert f"{file} {says}" in record.getMessage()
        assert record.getMessage().endswith("it is made again")
        assert file.read_bytes() == whole
    caplog.clear()
    assert kept(tmp_path, mine, 9.0) == 0.0
    assert caplog.records == []


def test_a_kept_file_of_an_older_version_is_taken_by_its_key_alone(tmp_path: Path) -> None:
    kept(tmp_path, {"seed": 1}, 0.0)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    save_file(tensors, file, {"key": json.dumps({"seed": 1})})
    assert kept(tmp_path, {"seed": 1}, 9.0) == 0.0
    for header in ({"key": json.dumps({"seed": 2})}, None):
        save_file(tensors, file, header)
        assert kept(tmp_path, {"seed": 1}, 9.0) == 9.0


def test_a_training_does_not_go_on_from_another_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def resumed(key: dict[str, object], losses: list[float]) -> list[float]:
        """The losses that a training finds, which is then stopped after so many."""
        parameter = torch.zeros(2, requires_grad=True)
        optimizer, random = torch.optim.Adam([parameter]), torch.Generator()
        with pytest.raises(KeyboardInterrupt), progress_of(tmp_path, key) as progress:  # noqa: PT012  # stopped within
            losses_before = progress.resume({"": parameter}, optimizer, random)
            parameter.grad = torch.ones(2)
            optimizer.step()
            progress.keep({"": parameter}, optimizer, random, losses)
            raise KeyboardInterrupt
        return losses_before

    assert resumed({"rate": 1}, [3.0]) == []
    (file,) = tmp_path.glob("*.safetensors")
    assert resumed({"rate": 1}, [3.0, 2.0]) == [3.0]
    resumed({"rate": 2}, [9.0])
    (other,) = set(tmp_path.glob("*.safetensors")) - {file}
    flipped = bytearray(file.read_bytes())
    flipped[-1] ^= 1
    for content, says in ((other.read_bytes(), "is of another run"), (bytes(flipped), "is damaged")):
        file.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert resumed({"rate": 1}, [3.0]) == []
        assert f"{file} {says}" in caplog.text
