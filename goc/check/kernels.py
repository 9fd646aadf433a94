"""The Triton kernel of a whole cached step against the same sum in float64, and its time beside its bytes' bound."""

import importlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor

from goc.check.roofline import H100_SXM
from goc.check.setting import Outcome, Setting, Table
from goc.models.gated import Add, Gated, add_gated
from goc.system.device import choose_device, synchronize
from goc.system.errors import GocError

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PAIRS = (("fp32", "fp32"), ("fp32", "bf16"), ("fp32", "fp16"), ("bf16", "bf16"))  # of the stream and the features
ODD = ((1, (2, 16, 64)), (3, (2, 7, 33)), (56, (3, 5, 72)), (168, (1, 40, 32)))  # terms, and [N, tokens, hidden]
ROUNDING = 2.0**-24  # of one float32 operation, relative
CALLS = 20  # timed ones, of which the median is taken


@dataclass(frozen=True)
class Sum:
    """So many terms on a residual stream of a shape [N, tokens, hidden], and their formats."""

    count: int
    shape: tuple[int, int, int]
    stream: str
    feature: str
    timed: bool = False


def sums(tiny: bool) -> list[Sum]:
    """Odd shapes in every pair of formats; and DiT-XL/2's with 8 and 32 guided images, timed."""
    odd = [Sum(count, shape, *pair) for pair in PAIRS for count, shape in ODD]
    if tiny:
        return [*odd, Sum(3, (2, 16, 64), "fp32", "bf16", timed=True)]
    few, many = (16, 256, 1152), (64, 256, 1152)
    return [
        *odd,
        Sum(56, many, "fp32", "bf16", timed=True),
        Sum(56, many, "fp32", "fp32", timed=True),
        Sum(56, few, "fp32", "bf16", timed=True),
        Sum(168, few, "fp32", "bf16", timed=True),
        Sum(1, many, "fp32", "bf16", timed=True),
    ]


def terms(of: Sum, device: torch.device) -> tuple[Tensor, list[Gated]]:
    """A random stream, and what is added to it: gates are rows of one tensor, as one product for all gives them."""
    random = torch.Generator(device).manual_seed(0)
    samples, _, hidden = of.shape

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device)

    gates = draw(samples, of.count, 2, hidden).to(FORMATS[of.feature])
    coefficients = (0.37 if index % 3 == 1 else 1.0 for index in range(of.count))
    added = [(c, gates[:, index, 1], draw(*of.shape).to(FORMATS[of.feature])) for index, c in enumerate(coefficients)]
    return draw(*of.shape).to(FORMATS[of.stream]), added


def exact(h: Tensor, added: Sequence[Gated]) -> tuple[Tensor, Tensor]:
    """The sum in float64, and that of the absolute values."""
    total, absolute = h.double(), h.double().abs()
    for coefficient, gate, feature in added:
        term = coefficient * gate.double().unsqueeze(1) * feature.double()
        total += term
        absolute += term.abs()
    return total, absolute


def allowed(of: Sum) -> float:
    """Error of a sum in float32 that is rounded once to the stream's format, of the sum of absolute values.

    The proved bound of recursive summation (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), with
    a multiplication or two for each term, and one unit in the last place of the format.
    """
    return (of.count + 2) * ROUNDING + torch.finfo(FORMATS[of.stream]).eps


def median_ms(call: Callable[[], object], device: torch.device, calls: int) -> float:
    """Median milliseconds of a call from an idle device to an idle device, after one that is not timed."""
    took = []
    for _ in range(1 + calls):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        took.append(1e3 * (time.perf_counter() - start))
    return median(took[1:])


def least_ms(h: Tensor, added: Sequence[Gated]) -> float:
    """Milliseconds that an H100 SXM takes to read all tensors once and to write the stream once."""
    moved = 2 * h.nbytes + sum(gate.nbytes + feature.nbytes for _, gate, feature in added)
    return 1e3 * moved / H100_SXM.bandwidth


def compared(of: Sum, add: Add, device: torch.device, calls: int) -> dict[str, Any]:
    """A row: the largest errors of the kernel and of the sums one by one, and the times of both if they are timed."""
    h, added = terms(of, device)
    total, absolute = exact(h, added)

    def error(how: Add) -> float:
        return ((how(h.clone(), added).double() - total).abs() / absolute).max().item()

    row: dict[str, Any] = {
        "stream": of.stream,
        "feature": of.feature,
        "terms": of.count,
        "shape": " x ".join(map(str, of.shape)),
        "error": error(add),
        "eager_error": error(add_gated),
        "allowed": allowed(of),
        **dict.fromkeys(("kernel_ms", "eager_ms", "least_ms", "of_bound"), math.nan),
    }
    row["agrees"] = bool(row["error"] <= row["allowed"])  # not if it is not a number
    if of.timed:
        row["kernel_ms"] = median_ms(partial(add, h, added), device, calls)
        row["eager_ms"] = median_ms(partial(add_gated, h, added), device, calls)
        row["least_ms"] = least_ms(h, added)
        row["of_bound"] = row["least_ms"] / row["kernel_ms"]
    return row


COLUMNS = {
    "stream": "stream",
    "feature": "features",
    "terms": "terms",
    "shape": "shape",
    "error": "largest error ↓",
    "eager_error": "error one by one ↓",
    "allowed": "allowed",
    "agrees": "agrees",
    "kernel_ms": "kernel, ms ↓",
    "eager_ms": "one by one, ms ↓",
    "least_ms": "least on an H100 SXM, ms",
    "of_bound": "least / measured ↑",
}


def check(setting: Setting) -> Outcome:
    """The kernel on the setting's device; on a CPU in Triton's interpreter. Without Triton it says so."""
    device = choose_device(setting.device)
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernel is imported
    try:
        kernel = importlib.import_module("goc.models.gated_kernel")
    except ImportError as error:
        return Outcome(table([]), missing=f"Triton is not installed: pip install '.[kernels]' ({error})")

    def add(h: Tensor, added: Sequence[Gated]) -> Tensor:
        if not kernel.fits(h, added):  # it would be added one by one
            raise GocError("the kernel does not take what it is made for")
        return cast(Tensor, kernel.add_at_once(h, added))

    with torch.inference_mode():
        rows = list(_rows(setting, add, device))
    failures = [
        f"{row['terms']} terms, {row['stream']} and {row['feature']}, {row['shape']}: an error of {row['error']:.3g}, "
        f"allowed {row['allowed']:.3g}"
        for row in rows
        if not row["agrees"]
    ]
    right = f"{len(rows) - len(failures)} of {len(rows)} sums agree."
    first = next(row for row in rows if row["of_bound"] > 0)
    speed = (
        f"{first['terms']} terms of {first['shape']} in {first['feature']}: {first['kernel_ms']:.3g} ms, one by one "
        f"{first['eager_ms']:.3g} ms; their bytes take {first['least_ms']:.3g} ms on an H100 SXM."
    )
    return Outcome(table(rows), failures, [right, speed])


def _rows(setting: Setting, add: Add, device: torch.device) -> Iterator[dict[str, Any]]:
    for of in sums(setting.is_tiny):
        yield compared(of, add, device, 1 if setting.is_tiny else CALLS)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The part's table."""
    return Table(
        "kernels",
        "What a cached step adds: the kernel",
        "The sum of all cached features on the residual stream by the Triton kernel (goc/models/gated_kernel.py), on a "
        "CPU in Triton's interpreter. Errors are those of any value beside float64, relative to the sum of absolute "
        "values; allowed is the bound of one sum in float32, rounded once. Times are medians; least is all bytes once "
        "at an H100 SXM's bandwidth. One by one: the sums without a kernel, which round to the stream's format after "
        "each term.",
        pd.DataFrame(rows, columns=list(COLUMNS)),
        COLUMNS,
    )
