import torch
from test_calibration import record

from goc.caching.inflection import correct_at, inflections, step_alignment


def test_a_turning_feature_is_an_inflection_and_a_straight_one_is_not() -> None:
    line = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0])[:, None, None, None, None, None].expand(5, 2, 2, 1, 1, 1)
    alignment = record([line]).alignment()
    assert step_alignment(alignment)[2:].tolist() == [1.0, -1.0, 1.0]
    assert inflections(alignment, 0.0)[:, 0, 0].tolist() == [False, False, False, True, False]


def test_each_cell_can_be_gated_by_itself() -> None:
    alignment = torch.full((3, 2, 2), 0.8, dtype=torch.float64)
    alignment[2, 0, 1] = -0.5
    assert inflections(alignment, 0.0).sum() == 0  # the step's mean is above the threshold
    assert torch.nonzero(inflections(alignment, 0.0, per_cell=True)).tolist() == [[2, 0, 1]]


def test_a_feature_that_stands_still_is_no_inflection() -> None:
    alignment = record([torch.ones(4, 1, 2, 1, 1, 1)]).alignment()
    assert not inflections(alignment, 0.5).any()


def test_correct_at_switches_whole_steps() -> None:
    assert torch.nonzero(correct_at([3, 1], (5, 2, 2)).all(dim=(1, 2))).flatten().tolist() == [1, 3]
