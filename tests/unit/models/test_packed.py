"""Values in float8 with a scale for each row."""

import pytest
import torch
from closeness import assert_near

from goc.models.gated import add_gated, gated_by
from goc.models.packed import packed, unpacked, with_rows

EPSILON = 2.0**-4  # of float8 with three bits of mantissa: half a unit in the last place


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 3e4, 1e30])
def test_a_value_is_rounded_to_three_bits_of_mantissa_whatever_the_size_of_its_row(size: float) -> None:
    x = size * torch.randn(3, 5, 7)
    largest = x.abs().amax(dim=(1, 2), keepdim=True)
    error = (packed(x).unpacked() - x).abs()
    assert (error <= torch.maximum(EPSILON * x.abs(), largest * 2.0**-17)).all()


def test_packing_what_was_packed_changes_no_bit() -> None:
    once = packed(torch.randn(64, 3, 5) * 10.0 ** torch.randint(-9, 9, (64, 1, 1)))
    twice = packed(once.unpacked())
    assert torch.equal(once.unpacked(), twice.unpacked())


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    x = torch.randn(4, 3, 5) * torch.tensor([1e-3, 1.0, 1e5, 0.0]).view(-1, 1, 1)
    together = packed(x).unpacked()
    for row, alone in enumerate(x):
        assert torch.equal(packed(alone[None]).unpacked()[0], together[row])


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_stays_so_and_in_its_row(bad: float) -> None:
    x = torch.ones(2, 3)
    x[0, 1] = bad
    values = packed(x).unpacked()
    assert not values[0].isfinite().all()
    assert torch.equal(values[1], x[1])


def test_it_takes_a_quarter_of_float32_and_a_scale_a_row() -> None:
    assert packed(torch.randn(3, 4, 8)).nbytes == 3 * (4 * 8 + 4)


def test_rows_of_packed_values_are_chosen_with_their_scales() -> None:
    x = torch.randn(4, 3, 2) * torch.tensor([1e-6, 1.0, 1e3, 1e6]).view(-1, 1, 1)
    rows = with_rows([packed(x)], lambda parts: parts[0][[2, 0]])
    assert torch.equal(unpacked(rows), packed(x).unpacked()[[2, 0]])
    joined = with_rows([packed(x[:1]), packed(x[1:])], lambda parts: torch.cat([*parts]))
    assert torch.equal(unpacked(joined), packed(x).unpacked())


@pytest.mark.parametrize("gate", [torch.randn(2, 6), torch.ones(1, 1)])
def test_a_packed_term_is_added_as_what_it_stands_for(gate: torch.Tensor) -> None:
    h, value = torch.randn(2, 3, 6), packed(torch.tensor([1e-4, 1e4]).view(-1, 1, 1) * torch.randn(2, 3, 6))
    plain = [(0.3, gate, value.unpacked())]
    with torch.inference_mode():
        assert_near(add_gated(h.clone(), gated_by(gate, [(0.3, value)])), add_gated(h.clone(), plain))
