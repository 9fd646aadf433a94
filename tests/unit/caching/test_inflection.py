import torch
from cells import record, record_products
from torch.nn.functional import cosine_similarity

from goc.caching.inflection import correct_at, inflections, span_alignment, step_alignment


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


def test_span_alignment_is_the_cosine_of_what_a_prediction_does_and_what_it_should() -> None:
    features = torch.randn(7, 2, 2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.zeros(7, 2, 2, dtype=torch.bool)
    mask[[1, 3, 4, 6]] = True
    mask[5, 1, 1] = True  # this cell is cached where the others are computed
    alignment = span_alignment(record_products([features[:, :, :, :1], features[:, :, :, 1:]]), mask)
    flat = features.permute(0, 1, 2, 3, 4, 5).flatten(3)
    for i, a, b in ((3, 2, 0), (4, 2, 0), (6, 5, 2)):
        expected = cosine_similarity(flat[i] - flat[a], flat[a] - flat[b], dim=-1)
        torch.testing.assert_close(alignment[i, 0], expected[0])
    torch.testing.assert_close(
        alignment[5, 1, 1], cosine_similarity(flat[5, 1, 1] - flat[2, 1, 1], flat[2, 1, 1] - flat[0, 1, 1], dim=0)
    )
    assert alignment[[0, 1, 2]].isnan().all()  # computed, or fewer than two computed before
    assert alignment[5, 0].isnan().all()
    assert not step_alignment(alignment)[3:].isnan().any()  # a mean over the cells that have one


def test_a_turn_within_a_span_is_an_inflection_that_the_step_does_not_see() -> None:
    line = torch.tensor([0.0, 4.0, 8.0, 6.0, 7.0])[:, None, None, None, None, None].expand(5, 1, 2, 1, 1, 1)
    mask = torch.tensor([False, False, False, True, True])[:, None, None].expand(5, 1, 2)
    by_step, by_span = record([line]).alignment(), span_alignment(record_products([line]), mask)
    assert step_alignment(by_step)[2:].tolist() == [1.0, -1.0, -1.0]
    assert step_alignment(by_span)[3:].tolist() == [-1.0, -1.0]
    line = torch.tensor([0.0, 4.0, 8.0, 13.0, 7.0, 5.0])[:, None, None, None, None, None].expand(6, 1, 2, 1, 1, 1)
    mask = torch.tensor([False, False, False, True, True, True])[:, None, None].expand(6, 1, 2)
    by_step, by_span = record([line]).alignment(), span_alignment(record_products([line]), mask)
    assert step_alignment(by_step)[5] == 1.0  # it goes on as in the step before,
    assert step_alignment(by_span)[5] == -1.0  # which is away from where the prediction goes
