"""goc check's trainings: losses that are not the CPU's are told."""

import pytest
import torch

from goc.check import training

META = torch.device("meta")


@pytest.mark.parametrize(
    ("losses", "agrees"),
    [([2.0, 1.0], True), ([2.001, 1.001], True), ([2.0, 1.05], False), ([2.0, float("nan")], False)],
)
def test_losses_that_are_not_the_cpus_are_told(
    losses: list[float], agrees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = {"weights": lambda model, device, size: losses if device == META else [2.0, 1.0]}
    monkeypatch.setattr(training, "TRAININGS", trainings)
    (row,) = training.beside_cpu(training.TINY, META)
    assert (row["training"], row["agrees"]) == ("train weights, digits", agrees)
