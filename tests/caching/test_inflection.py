import numpy as np
import torch

from goc.caching.inflection import AlignmentRecorder, correct_at, inflections, step_alignment


def record(batches: list[torch.Tensor]) -> AlignmentRecorder:
    """Run a recorder over batches of features [steps, blocks, branches, N, tokens, hidden]."""
    steps, blocks, branches = batches[0].shape[:3]
    recorder = AlignmentRecorder(steps, blocks)
    for features in batches:
        for step in range(steps):
            recorder.begin_step(step)
            for block in range(blocks):
                for branch in range(branches):
                    assert recorder.lookup(block, branch) is None
                    recorder.store(block, branch, features[step, block, branch])
    return recorder


def test_alignment_is_the_cosine_of_successive_changes_over_all_samples_and_tokens() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(6, 3, 2, n, 5, 4) for n in (2, 3)]
    measured = record(batches).alignment()
    changes = np.diff(np.concatenate([batch.numpy() for batch in batches], axis=3), axis=0).reshape(5, 3, 2, -1)
    for i in range(2, 6):
        now, before = changes[i - 1], changes[i - 2]
        expected = (now * before).sum(-1) / np.sqrt((now**2).sum(-1) * (before**2).sum(-1))
        np.testing.assert_allclose(measured[i].numpy(), expected, rtol=1e-5)
    assert measured[:2].isnan().all()


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
