"""goc check's kernels: a sum that is not the sum, or not in float32, is told; without Triton the part says so."""

import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from goc.check import kernels
from goc.check.setting import TINY
from goc.models.gated import Add, Gated, add_gated

CPU = torch.device("cpu")


def without_the_last(h: Tensor, added: Sequence[Gated]) -> Tensor:
    return add_gated(h, added[:-1])


def without_coefficients(h: Tensor, added: Sequence[Gated]) -> Tensor:
    return add_gated(h, [(1.0, gate, feature) for _, gate, feature in added])


def in_bf16(h: Tensor, added: Sequence[Gated]) -> Tensor:
    return add_gated(h.bfloat16(), [(c, g.bfloat16(), f.bfloat16()) for c, g, f in added]).to(h.dtype)


@pytest.mark.parametrize(
    ("add", "agrees"),
    [(add_gated, True), (without_the_last, False), (without_coefficients, False), (in_bf16, False)],
)
@torch.inference_mode()
def test_only_the_sum_in_float32_agrees(add: Add, agrees: bool) -> None:
    for count, shape in kernels.ODD[1:]:
        row = kernels.compared(kernels.Sum(count, shape, "fp32", "fp32"), add, CPU, 1)
        assert row["agrees"] is agrees, (count, shape, row["error"], row["allowed"])


@torch.inference_mode()
def test_the_bound_counts_every_byte_once() -> None:
    h, added = kernels.terms(kernels.Sum(3, (2, 16, 64), "fp32", "bf16"), CPU)
    moved = 2 * 4 * 2 * 16 * 64 + 3 * 2 * (2 * 16 * 64 + 2 * 64)
    assert kernels.least_ms(h, added) == pytest.approx(1e3 * moved / 3.35e12)


def test_without_triton_the_part_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # is set by the part
    monkeypatch.setitem(sys.modules, "goc.models.gated_kernel", None)
    outcome = kernels.check(TINY)
    assert outcome.missing.startswith("Triton is not installed: pip install '.[kernels]'")
    assert outcome.failures == []
