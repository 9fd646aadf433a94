"""What a cached step adds to the residual stream: one by one, and by the kernel for GPUs, in Triton's interpreter."""

import importlib
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from closeness import assert_near
from generations import generation, random_model
from torch import Tensor

from goc.caching.cache import ScheduledCache
from goc.caching.expansion import Taylor
from goc.caching.schedule import uniform
from goc.models import gated
from goc.models.dit import adaln_linear
from goc.models.packed import packed

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def terms(count: int, shape: tuple[int, int, int], dtype: torch.dtype) -> list[gated.Gated]:
    """Gates that are rows of one tensor, as a product for all of them gives them, and a coefficient now and then."""
    samples, _, hidden = shape
    gates = torch.randn(samples, count, 2, hidden).to(dtype)
    return [(0.37 if index % 3 == 1 else 1.0, gates[:, index, 1], torch.randn(shape).to(dtype))
            for index in range(count)]  # fmt: skip


def summed(h: Tensor, added: list[gated.Gated]) -> Tensor:
    """The same in float64."""
    return h.double() + sum(c * g.double().unsqueeze(1) * f.double() for c, g, f in added)


@pytest.fixture(scope="module")
def kernel() -> ModuleType:
    pytest.importorskip("triton", reason="needs Triton, whose interpreter runs the kernel: pip install triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        return importlib.import_module("goc.models.gated_kernel")


@pytest.mark.parametrize(
    ("stream", "feature", "tolerance"),
    [
        ("fp32", "fp32", 2e-6),
        ("fp32", "bf16", 2e-6),
        ("fp32", "fp16", 2e-6),
        ("bf16", "bf16", 2**-7),  # the interpreter cuts off where a GPU rounds
    ],
)
@pytest.mark.parametrize(("count", "shape"), [(1, (2, 16, 64)), (3, (2, 7, 33)), (56, (3, 5, 72)), (168, (1, 40, 32))])
def test_the_kernel_adds_what_is_added_one_by_one(
    kernel: ModuleType, count: int, shape: tuple[int, int, int], stream: str, feature: str, tolerance: float
) -> None:
    torch.manual_seed(count)
    h, added = torch.randn(shape).to(FORMATS[stream]), terms(count, shape, FORMATS[feature])
    exact = summed(h, added)
    with torch.inference_mode():
        assert kernel.fits(h, added)
        given = h.clone()
        result = kernel.add_at_once(given, added)
    assert result is given
    # rounded once, to the stream's format
    assert ((result.double() - exact).abs() <= tolerance * (1 + exact.abs()) * count**0.5).all()


@pytest.mark.parametrize("gates", ["fp32", "bf16"])
def test_the_kernel_reads_float8_as_it_is_held(kernel: ModuleType, gates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shape, gate = (3, 7, 33), torch.randn(3, 33).to(FORMATS[gates])
    held = [(0.37, packed(torch.randn(shape) * size)) for size in (1e-3, 1.0, 30.0)]
    h, added = torch.randn(shape), gated.gated_by(gate, held)
    exact = summed(h, [(c, gate, value.unpacked()) for c, value in held])
    with torch.inference_mode():
        assert kernel.fits(h, added)
        assert_near(kernel.add_at_once(h.clone(), added).double(), exact)
        # GPUs before compute capability 8.9 have no float8
        monkeypatch.setattr(kernel, "reads_float8", lambda device: False)
        assert not kernel.fits(h, added)
        assert_near(kernel.add_at_once(h.clone(), added).double(), exact)


def test_what_the_kernel_cannot_read_is_added_one_by_one(kernel: ModuleType) -> None:
    h, added = torch.randn(2, 6, 8), terms(3, (2, 6, 8), torch.float32)
    (_, gate, tensor), *others = added
    transposed = (1.0, gate, tensor.transpose(1, 2).contiguous().transpose(1, 2))
    wide = (1.0, gate, tensor.double())
    ungated = [(c, torch.ones(1, 1), f) for c, _, f in added]  # of a network whose branches have no gates
    for unfit in ([transposed, *others], [*others, wide], ungated, []):
        with torch.inference_mode():
            assert not kernel.fits(h, unfit)
            assert_near(kernel.add_at_once(h.clone(), unfit), summed(h, unfit).float())
    learned = [(c, g.clone().requires_grad_(), f) for c, g, f in added]
    kernel.add_at_once(h, learned).sum().backward()  # training
    assert_near(learned[0][1].grad, added[0][2].sum(dim=1))


@pytest.mark.parametrize("order", [0, 2])
def test_a_model_gives_with_the_kernel_what_it_gives_without(kernel: ModuleType, order: int) -> None:
    model, mask = random_model(), uniform(4, 3, 0.5)
    torch.nn.init.normal_(model.final_layer.linear.weight)
    for block in model.blocks:
        torch.nn.init.normal_(adaln_linear(block).weight)
    model.stack_modulation()  # as on a GPU: gates are parts of one product
    cached = replace(generation(model), new_cache=lambda: ScheduledCache(mask, Taylor(mask, order)))
    expected = cached.make(range(2))[0]["latents"]
    calls: list[int] = []

    def add(h: Tensor, added: list[gated.Gated]) -> Tensor:
        assert kernel.fits(h, added)
        calls.append(len(added))
        return kernel.add_at_once(h, added)

    model.add_all = add
    assert_near(cached.make(range(2))[0]["latents"], expected)
    assert len(calls) == mask.all(dim=(1, 2)).sum()
    assert max(calls) == 6 * (1 + min(order, 1))  # after two computed steps a slope is known


def test_one_by_one_is_the_sum() -> None:
    h, added = torch.randn(2, 6, 8), terms(4, (2, 6, 8), torch.float32)
    with torch.inference_mode():
        assert_near(gated.add_gated(h.clone(), added), summed(h, added).float())
