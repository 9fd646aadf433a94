"""Dynamic programming finds the smallest sum of errors of all schedules."""

import itertools

import pytest
import torch
from torch import Tensor

from goc.caching.dynamic import dynamic_programming, extrapolation_errors


def products_of(features: Tensor) -> Tensor:
    """Inner products as a calibration measures them, of features [steps, cells, n]: [steps, steps, cells, 1]."""
    return torch.einsum("icn,jcn->ijc", features, features)[..., None]


def summed_errors(features: Tensor, schedule: tuple[int, ...], order: int) -> float:
    """Relative L2 errors of the cached steps, a mean over cells, by running the prediction."""
    total = 0.0
    for i in set(range(len(features))) - set(schedule):
        before = [step for step in schedule if step < i]
        value = features[before[-1]]
        if order and len(before) > 1:
            value = value + (value - features[before[-2]]) * (i - before[-1]) / (before[-1] - before[-2])
        total += ((features[i] - value).norm(dim=1) / features[i].norm(dim=1)).mean().item()
    return total


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_dynamic_programming_finds_the_smallest_sum_of_errors_of_all_schedules(order: int, count: int) -> None:
    features = torch.randn(8, 3, 40, generator=torch.Generator().manual_seed(count)).double().cumsum(0)
    every = [(0, *rest) for rest in itertools.combinations(range(1, 8), count - 1)]
    best = min(every, key=lambda schedule: summed_errors(features, schedule, order))
    assert dynamic_programming(extrapolation_errors(products_of(features), order), count) == best
