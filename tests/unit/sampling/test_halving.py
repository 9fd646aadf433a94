"""The search from known schedules: never behind one, within its budget, and better than trying each on all samples."""

import math

import numpy as np
import pytest

from goc.sampling.halving import FIRST, Race, halving
from goc.sampling.local_search import Steps, local_search

STEPS, COUNT, SAMPLES, TRIES = 20, 5, 24, 60
BEST: Steps = (0, 3, 9, 13, 18)


def distance(schedule: Steps, sample: int) -> float:
    """Of a sample: far from BEST is far, by how much differs between samples, and noise comes on top."""
    noise = np.random.default_rng([sample, *schedule]).normal(0.0, 1.0)
    own = sum(abs(step - best) ** 1.5 for step, best in zip(schedule, BEST, strict=True))
    return float(10 + own * (1 + 0.3 * (sample % 3)) + noise + 5 * (sample % 5))


class Counting:
    """Measures distances, and remembers of which samples."""

    def __init__(self) -> None:
        self.asked: list[tuple[Steps, int]] = []

    def __call__(self, schedule: Steps, indices: range) -> list[float]:
        self.asked += [(schedule, sample) for sample in indices]
        return [distance(schedule, sample) for sample in indices]


def raced(known: list[Steps], seed: int = 0, budget: int = SAMPLES * TRIES) -> tuple[Race, Counting]:
    counting = Counting()
    race = Race(counting, SAMPLES, budget)
    halving(race, known, STEPS, COUNT, seed)
    return race, counting


EVEN: Steps = (0, 4, 8, 12, 16)
POOR: Steps = (0, 1, 2, 3, 4)


@pytest.mark.parametrize("seed", range(3))
def test_no_known_schedule_is_closer_than_what_is_found(seed: int) -> None:
    starts: list[list[Steps]] = [[EVEN, POOR], [BEST, POOR], [POOR]]
    for known in starts:
        race, _ = raced(known, seed)
        found = race.ranked()[0]
        each = {schedule: np.mean([distance(schedule, sample) for sample in range(SAMPLES)]) for schedule in known}
        assert race.mean(found) <= min(each.values()) + 1e-9
        assert race.mean(found) == pytest.approx(np.mean([distance(found, sample) for sample in range(SAMPLES)]))
        assert set(known) <= set(race.ranked())  # on all samples, however poor


def test_it_stays_within_its_budget_and_measures_nothing_twice() -> None:
    for budget in (SAMPLES, SAMPLES + 5, 10 * SAMPLES, TRIES * SAMPLES):
        race, counting = raced([EVEN, POOR], budget=budget)
        assert len(counting.asked) == len(set(counting.asked)) == budget - race.left
        assert race.left >= 0
        assert all(schedule[0] == 0 and len(schedule) == COUNT for schedule in race.distances)
        assert race.left < SAMPLES or budget == TRIES * SAMPLES


def test_it_is_deterministic_and_another_seed_tries_others() -> None:
    (first, one), (_, same), (_, other) = raced([EVEN]), raced([EVEN]), raced([EVEN], seed=1)
    assert one.asked == same.asked
    assert one.asked != other.asked
    assert len(first.distances) > (first.total - first.left) / SAMPLES  # some went out before


def test_it_finds_closer_ones_than_local_search_with_as_many_samples() -> None:
    wins = 0
    for seed in range(5):
        race, _ = raced([EVEN], seed)
        _, local = local_search(
            lambda schedule: float(np.mean([distance(schedule, sample) for sample in range(SAMPLES)])),
            STEPS, COUNT, TRIES, seed,
        )  # fmt: skip
        wins += race.mean(race.ranked()[0]) <= local
    assert wins >= 4


def test_what_is_clearly_worse_costs_a_share_of_the_samples_and_one_that_was_out_may_come_back() -> None:
    race = Race(Counting(), SAMPLES, 10 * SAMPLES)
    few = round(FIRST * SAMPLES)
    assert race.tried(BEST)
    assert race.tried(POOR)
    assert [len(race.distances[schedule]) for schedule in (BEST, POOR)] == [SAMPLES, few]
    assert race.ranked() == [BEST]
    assert race.tried(POOR)
    assert race.ranked() == [BEST, POOR]
    assert race.left == 8 * SAMPLES


def test_what_diverges_is_the_worst() -> None:
    def measure(schedule: Steps, indices: range) -> list[float]:
        return [math.inf if schedule[1] > 2 else 1.0 + schedule[1] for _ in indices]

    race = Race(measure, 4, 10_000)
    halving(race, [(0, 3, 4)], 6, 3, seed=0)
    assert race.ranked()[0][1] == 1
    assert race.left > 0
    every = Race(lambda schedule, indices: [math.inf for _ in indices], 4, 10_000)
    halving(every, [(0, 3, 4)], 6, 3, seed=0)
    assert every.left > 0


def test_it_ends_where_nothing_closer_is_expected_or_possible() -> None:
    race, _ = raced([EVEN], budget=1000 * SAMPLES)
    assert race.left > 900 * SAMPLES
    assert race.ranked()[0] == min(map(tuple, race.distances), key=race.mean)
    exact = Race(lambda schedule, indices: [float(schedule != EVEN) for _ in indices], SAMPLES, 1000 * SAMPLES)
    halving(exact, [EVEN], STEPS, COUNT, seed=0)
    assert exact.ranked()[0] == EVEN
    assert len(exact.distances) <= 1 + 32  # the local search's starts
