"""BudCache's search: what it tries, how much of it, and that it finds what can be known otherwise."""

import itertools
import math

import pytest

from goc.sampling.annealing import annealing

HIDDEN = (0, 1, 2, 9, 11, 14, 17, 18)
Steps = tuple[int, ...]


def away_from_hidden(schedule: Steps) -> float:
    """Like squared errors of samples in size; with a hill between here and there, as 9 and 14 are good together."""
    away = sum((a - b) ** 2 for a, b in zip(schedule, HIDDEN, strict=True)) / 1000
    return away + 0.01 * (len({9, 14} & {*schedule}) == 1)


def asked_of(seed: int, evaluations: int = 1500) -> tuple[list[Steps], tuple[Steps, float]]:
    asked: list[Steps] = []
    found = annealing(lambda schedule: asked.append(schedule) or away_from_hidden(schedule), 20, 8, evaluations, seed)
    return asked, found


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_a_hidden_schedule_and_asks_the_same_again(seed: int) -> None:
    asked, found = asked_of(seed)
    assert found == (HIDDEN, 0.0)
    assert asked_of(seed) == (asked, found)
    assert asked_of(seed + 1)[0] != asked


@pytest.mark.parametrize("evaluations", [1, 2, 30, 121])
def test_it_tries_as_many_schedules_as_it_may_each_once_and_keeps_the_best(evaluations: int) -> None:
    asked, (found, value) = asked_of(0, evaluations)
    assert len(asked) == len(set(asked)) == evaluations
    assert value == away_from_hidden(found) == min(map(away_from_hidden, asked)) <= away_from_hidden(asked[0])
    for schedule in asked:
        assert schedule[:2] == (0, 1)  # a quarter of eight
        assert len(schedule) == 8
        assert sorted(set(schedule)) == list(schedule)
        assert schedule[-1] < 20


def test_one_or_two_steps_are_moved_at_a_time() -> None:
    asked, _ = asked_of(0, 60)
    moved = [min(len({*new} - {*old}) for old in asked[:i]) for i, new in enumerate(asked) if i]
    assert {*moved[:-1]} <= {1, 2}


@pytest.mark.parametrize(("steps", "count"), [(5, 3), (6, 5), (4, 4)])
def test_it_never_takes_more_schedules_than_there_are(steps: int, count: int) -> None:
    asked: list[Steps] = []
    annealing(lambda schedule: asked.append(schedule) or 0.0, steps, count, 1000, seed=0)
    assert sorted(asked) == [(0, *rest) for rest in itertools.combinations(range(1, steps), count - 1)]


def test_what_diverges_is_never_chosen() -> None:
    found, value = annealing(lambda schedule: 0.5 if 7 in schedule else math.inf, 12, 4, 200, seed=0)
    assert 7 in found
    assert value == 0.5
