"""Schedules that are known without trying: each has the asked number of steps, and is what its method gives there."""

import pytest
import torch

from goc.caching.dynamic import dynamic_programming, extrapolation_errors
from goc.caching.known import by_programming, by_rule, resized
from goc.caching.schedule import computed_steps_of, fora, taylorseer, uniform


@pytest.mark.parametrize("count", range(2, 12))
def test_a_schedule_of_another_size_keeps_or_adds_steps(count: int) -> None:
    schedule = (0, 3, 9, 14, 17)
    other = resized(schedule, count, 20)
    assert len(other) == count
    assert other[0] == 0
    assert list(other) == sorted(set(other))
    assert other[-1] < 20
    assert set(other) <= set(schedule) or set(schedule) <= set(other)


def test_the_smallest_gap_goes_and_the_largest_is_halved() -> None:
    assert resized((0, 3, 9, 14, 17), 4, 20) == (0, 3, 9, 14)  # without 17 there is the smallest gap, 14 to 20
    assert resized((0, 1, 10), 2, 20) == (0, 10)
    assert resized((0, 4, 14), 4, 20) == (0, 4, 9, 14)
    assert resized((0, 2), 3, 20) == (0, 2, 11)


@pytest.mark.parametrize(("steps", "interval"), [(20, 4), (50, 5), (10, 3)])
def test_rules_are_the_methods_own_where_an_interval_has_as_many_steps(steps: int, interval: int) -> None:
    for name, rule in (("fora", fora), ("taylorseer", taylorseer)):
        computed = tuple(computed_steps_of(rule(steps, 1, interval)))
        assert by_rule(steps, len(computed))[name] == computed
    for count in range(2, steps):
        assert {len(schedule) for schedule in by_rule(steps, count).values()} == {count}
        assert by_rule(steps, count)["even"] == tuple(computed_steps_of(uniform(steps, 1, 1 - count / steps)))


def test_programming_is_as_the_methods_dynamic_and_dpcache_do_it() -> None:
    features = torch.randn(9, 4, 30, generator=torch.Generator().manual_seed(0)).cumsum(dim=0).double()
    products = torch.einsum("icd,jcd->ijc", features, features)[..., None]
    schedules = by_programming(products, 4, None)
    assert schedules["dynamic_reuse"] == dynamic_programming(extrapolation_errors(products, 0), 4)
    assert schedules["dynamic_anchored"] == dynamic_programming(extrapolation_errors(products, 1), 4)
    assert schedules["dpcache"][:3] == (0, 1, 2)
    assert {len(schedule) for schedule in schedules.values()} == {4}
