"""Dynamic programming finds the smallest sum of errors of all schedules."""

import itertools

import pytest
import torch
from cells import one_cell, products_of, used_values
from torch import Tensor

from goc.caching.dynamic import dynamic_programming, extrapolation_errors
from goc.caching.expansion import Taylor


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


def path_cost(features: Tensor, schedule: tuple[int, ...], clock: list[float]) -> float:
    """DPCache's cost of a path by running TaylorSeer: of the last two computed steps, and the step before these."""
    total = 0.0
    for i in set(range(len(features))) - set(schedule):
        *_, b, a = (-1, *(step for step in schedule if step < i))
        known = {step for step in (b - 1, b, a) if step >= 0}
        first = min(known)
        mask = one_cell([step not in known for step in range(first, len(features))])
        values = used_values(Taylor(mask, 2, clock[first:]), mask, features[first:])
        total += (features[i] - values[i - first]).norm(dim=1).mean().item()
    return total


@pytest.mark.parametrize("count", [3, 4, 6])
def test_the_cheapest_path_is_that_of_all_schedules_with_the_first_steps(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(9, 2, 40, generator=generator).double().cumsum(0).cumsum(0)
    clock = torch.rand(9, generator=generator).double().cumsum(0).tolist()
    every = [(0, 1, 2, *rest) for rest in itertools.combinations(range(3, 9), count - 3)]
    costs = {schedule: path_cost(features, schedule, clock) for schedule in every}
    errors = extrapolation_errors(products_of(features), 2, clock, scaled=False)
    assert dynamic_programming(errors, count, first=3) == min(costs, key=lambda schedule: costs[schedule])
    everywhere = [(0, *rest) for rest in itertools.combinations(range(1, 9), count - 1)]
    best = min(everywhere, key=lambda schedule: path_cost(features, schedule, clock))
    assert dynamic_programming(errors, count) == best
