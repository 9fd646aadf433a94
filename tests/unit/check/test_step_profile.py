"""goc check's profile: a step's time is divided among kinds of work, no part of it twice."""

from typing import Any

import pandas as pd
import pytest

from goc.check import step_profile
from goc.check.setting import TINY


def event(category: str, name: str, start: float, duration: float, thread: int = 1) -> dict[str, Any]:
    """As in a trace, in microseconds."""
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, "tid": thread}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>", "products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int>", "products"),
        ("sum_kernel", "sums"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::addcmul_cuda_kernel>", "sums"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>", "other"),
        ("triton_poi_fused_gelu_0", "other"),
        ("Memcpy DtoD (Device -> Device)", "other"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::addmm", "products"),
        ("aten::convert_to", "other"),
    ],
)
def test_kinds_of_work_by_the_names_of_kernels(name: str, kind: str) -> None:
    assert step_profile.kind_of(name) == kind


def test_on_a_gpu_kernels_count_and_what_is_left_of_the_step_is_idle() -> None:
    trace = {
        "traceEvents": [
            event("cpu_op", "aten::addmm", 0, 9000),  # launches, while other kernels run
            event("kernel", "nvjet_a", 100, 3000),
            event("kernel", "flash_fwd_kernel", 3200, 1000),
            event("gpu_memcpy", "Memcpy HtoD", 4300, 250),
            {"ph": "i", "name": "[memory]", "ts": 3},
        ]
    }
    parts = step_profile.parts_of(trace, 6.0)
    assert parts == {
        "attention_ms": 1.0, "sums_ms": 0.0, "products_ms": 3.0, "other_ms": 0.25, "idle_ms": 1.75, "launches": 3
    }  # fmt: skip


def test_on_a_cpu_an_operator_counts_without_those_that_it_calls() -> None:
    trace = {
        "traceEvents": [
            event("cpu_op", "aten::linear", 0, 1000),
            event("cpu_op", "aten::addmm", 100, 800),
            event("cpu_op", "aten::copy_", 150, 300),
            event("cpu_op", "aten::gelu", 1000, 500),
            event("cpu_op", "aten::gelu", 500, 700, thread=2),
            event("user_annotation", "a step", 0, 5000),
        ]
    }
    parts = step_profile.parts_of(trace, 2.0)
    assert parts["products_ms"] == pytest.approx(0.2 + 0.5)
    assert parts["other_ms"] == pytest.approx(0.3 + 0.5 + 0.7)
    assert parts["idle_ms"] == 0


def test_a_profile_without_kernels_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"case": "bf16", "method": "none", "step": "full", "step_ms": 2.0, "least_ms": 1.0, "of_bound": 0.5}
    empty = {**seen, **step_profile.parts_of({"traceEvents": []}, 2.0)}
    monkeypatch.setattr(step_profile, "rows", lambda setting, case: iter([empty]))
    outcome = step_profile.check(TINY)
    assert outcome.failures == ["bf16, none, full: the profiler saw no kernel"]
    assert pd.Series(outcome.table.frame["idle_ms"]).tolist() == [2.0]
