"""The table of digits_decisions: shares of a fixed schedule's distance at the same cost, sample by sample."""

import math

import digits_decisions as study
import numpy as np
import pytest

EVEN = [study.Ran(macs, np.full(6, macs), np.array([1, 2, 3, 4, 5, 6]) / macs) for macs in (10.0, 20.0, 40.0)]


def test_a_fixed_schedule_between_two_intervals_is_interpolated_for_each_sample() -> None:
    # distances fall with one over the cost, so both logarithms are on a line
    assert study.fixed_at(EVEN, 15.0) == pytest.approx(np.array([1, 2, 3, 4, 5, 6]) / 15)
    assert study.fixed_at(EVEN, 40.0) == pytest.approx(EVEN[-1].distances)
    assert study.fixed_at(EVEN, 9.0) is None
    assert study.fixed_at(EVEN, 41.0) is None


def test_shares_of_all_and_of_thirds() -> None:
    own = np.array([10.0, 10.0, 20.0, 20.0, 30.0, 30.0])
    # as far as the fixed schedule of each sample's own cost, so no decision finds better steps, only more of them
    ran = study.Ran(20.0, own, np.array([1, 2, 3, 4, 5, 6]) / own)
    found = dict(study.shares(ran, EVEN))
    assert math.exp(found["computed least"].log) == pytest.approx(2)
    assert math.exp(found["computed most"].log) == pytest.approx(2 / 3)
    assert math.exp(found["all samples"].log) == pytest.approx((2 * 1 * 2 / 3) ** (1 / 3))
    assert math.exp(found["computed least, at its own cost"].log) == pytest.approx(1)
    assert math.exp(found["computed most, at its own cost"].log) == pytest.approx(1)
    assert found["computed most"].error == pytest.approx(0, abs=1e-9)
    assert found["all samples"].error == pytest.approx(np.log([2, 2, 1, 1, 2 / 3, 2 / 3]).std(ddof=1) / math.sqrt(6))


def test_samples_of_one_cost_are_in_no_third() -> None:
    assert list(dict(study.shares(study.Ran(20.0, np.full(6, 20.0), np.ones(6)), EVEN))) == ["all samples"]


def test_over_models_errors_add_as_of_independent_samples() -> None:
    pooled = study.Share.mean([study.Share(0.0, 0.03), study.Share(math.log(4), 0.04)])
    assert (math.exp(pooled.log), pooled.error) == pytest.approx((2, 0.025))
    assert f"{pooled}" == "2.000(50)"
