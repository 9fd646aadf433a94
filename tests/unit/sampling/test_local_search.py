"""Searching for computed steps: what is found is the best, where that can be known otherwise."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from goc.sampling.local_search import local_search, neighbours, starts

HIDDEN = (0, 2, 3, 9, 14)


def away_from_hidden(schedule: tuple[int, ...]) -> float:
    return float(sum(abs(a - b) for a, b in zip(schedule, HIDDEN, strict=True)))


@given(st.integers(2, 30), st.data())
def test_starts_and_neighbours_are_schedules(steps: int, data) -> None:
    count = data.draw(st.integers(1, steps - 1))
    found = starts(steps, count, np.random.default_rng(0))
    assert len(set(found)) == len(found) >= 1
    for schedule in found:
        others = neighbours(schedule, steps)
        for one in (schedule, *others):
            assert (one[0], len(one)) == (0, count)
            assert sorted(set(one)) == list(one)
            assert one[-1] < steps
        assert all(len(set(other) - set(schedule)) == 1 for other in others)


def test_the_search_finds_a_hidden_schedule_and_asks_the_same_again() -> None:
    asked: list[list[tuple[int, ...]]] = [[], []]
    for asks in asked:

        def objective(schedule: tuple[int, ...], asks=asks) -> float:
            asks.append(schedule)
            return away_from_hidden(schedule)

        assert local_search(objective, 20, 5, 120, seed=0) == (HIDDEN, 0.0)
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == len(asked[0]) == 120  # none twice


def test_a_search_never_takes_more_schedules_than_there_are() -> None:
    asked = []
    local_search(lambda schedule: asked.append(schedule) or 0.0, 5, 3, 1000, seed=0)
    assert sorted(asked) == [(0, *rest) for rest in itertools.combinations(range(1, 5), 2)]
