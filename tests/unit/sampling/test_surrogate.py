"""The surrogate of a search: it knows what was measured, doubts what is far, and sees what computed steps share."""

import numpy as np
import pytest

from goc.sampling.local_search import Steps
from goc.sampling.surrogate import RESIDUE, SCALE, Surrogate, likeness

STEPS = 20
SCHEDULES: list[Steps] = [(0, 4, 8, 12, 16), (0, 3, 8, 12, 16), (0, 1, 2, 3, 4), (0, 2, 9, 14, 18), (0, 5, 9, 13, 17)]


def test_a_schedule_is_most_like_itself_and_less_like_what_is_farther() -> None:
    alike = likeness(SCHEDULES, SCHEDULES, STEPS)
    assert np.allclose(np.diag(alike), 1)
    assert np.allclose(alike, alike.T)
    assert 1 > alike[0, 1] > alike[0, 3] > alike[0, 2] > 0
    doubled = [tuple(2 * step for step in schedule) for schedule in SCHEDULES]
    assert np.allclose(likeness(doubled, doubled, 2 * STEPS), alike)  # in units of the mean distance


def test_it_expects_what_was_measured_as_far_as_that_is_certain() -> None:
    values = np.array([0.0, 0.1, 1.5, 0.3, -0.1])
    certain = Surrogate(SCHEDULES, values, np.zeros(5), STEPS)
    mean, deviation = certain.expected(SCHEDULES)
    assert np.allclose(mean, values, atol=2 * RESIDUE)
    assert (deviation < 2 * RESIDUE).all()
    noisy = Surrogate(SCHEDULES, values, np.array([0, 0, 0, 0, 5.0]), STEPS)
    mean, deviation = noisy.expected(SCHEDULES)
    assert abs(mean[4] - values[4]) > 2 * RESIDUE  # of which its own measurement says little
    assert deviation[4] > 10 * RESIDUE
    assert certain.expected([(0, 16, 17, 18, 19)])[1][0] > 0.9 * SCALE


def test_it_adds_up_what_parts_of_schedules_do() -> None:
    """Late steps that were seen with one beginning count with another one, too."""
    late = {(15, 18): -0.4, (14, 19): 0.0, (12, 17): 0.4}
    early = {(0, 2, 5): 0.0, (0, 3, 6): 0.2, (0, 1, 4): -0.2}
    each = {(*first, *last): early[first] + late[last] for first in early for last in late}
    left_out = (0, 1, 4, 15, 18)
    known = [schedule for schedule in each if schedule != left_out]
    values = np.array([each[schedule] for schedule in known])
    mean, _ = Surrogate(known, values, np.zeros(len(known)), STEPS).expected([left_out])
    assert mean[0] < values.min()
    assert mean[0] == pytest.approx(each[left_out], abs=0.15)
