import numpy as np
import torch
from cells import record, record_products

from goc.caching.calibration import ErrorRecorder, InputChangeRecorder
from goc.models.seen import Seen


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


def test_reuse_error_is_the_relative_l1_error_over_all_samples_averaged_over_blocks() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(5, 3, 2, n, 4, 2) for n in (2, 3)]
    recorder = ErrorRecorder((5, 3, 2), lookahead=2)
    for features in batches:
        for step in range(5):
            recorder.begin_step(step)
            for block in range(3):
                for branch in range(2):
                    recorder.store(block, branch, features[step, block, branch])
    everything = np.concatenate([batch.numpy() for batch in batches], axis=3).reshape(5, 3, 2, -1)
    errors = recorder.errors().numpy()
    assert errors.shape == (5, 2, 2)
    for step in range(5):
        for k in (1, 2):
            if step < k:
                assert np.isinf(errors[step, k - 1]).all()
                continue
            difference = np.abs(everything[step] - everything[step - k]).sum(-1)
            expected = (difference / np.abs(everything[step]).sum(-1)).mean(axis=0)
            np.testing.assert_allclose(errors[step, k - 1], expected, rtol=1e-5)


def test_input_change_is_the_relative_l1_change_of_the_signal_averaged_over_batches() -> None:
    recorder = InputChangeRecorder(3)
    nothing = torch.empty(0)
    for signals in ([1.0, 2.0, 3.0], [2.0, 3.0, 3.0]):
        for step, level in enumerate(signals):
            recorder.begin_step(step)
            recorder.decide(Seen(nothing, nothing, nothing, lambda level=level: torch.full((2, 3), level)))
    assert recorder.changes().tolist() == [0.0, (1.0 + 0.5) / 2, (0.5 + 0.0) / 2]


def test_products_are_those_of_every_two_steps_over_all_samples() -> None:
    batches = [torch.randn(4, 2, 2, n, 3, 2, generator=torch.Generator().manual_seed(n)) for n in (2, 3)]
    everything = torch.cat(batches, dim=3).double().flatten(3)
    expected = torch.einsum("ilbn,jlbn->ijlb", everything, everything)
    torch.testing.assert_close(record_products(batches), expected, rtol=1e-5, atol=1e-5)
