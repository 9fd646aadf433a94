"""compile=auto: whether a run is long enough to pay for compiling, by its settings and its device alone."""

import ctypes
import os
import shutil
from typing import Any

from goc.config.settings import Execution, Measurement, Way
from goc.config.validation import check_measurement
from goc.system.errors import ConfigError

AUTO = "auto"
# a run's multiply-accumulate operations without a cache, from which on compiling pays: on an H100 an evaluation of
# DiT-XL/2 in bf16 (64 rows, 7.6e12) takes 6 to 10 ms less, cached or not, which makes 80 s of 1e17
WORTH_MACS = 1e17
TYPED = {"true": True, "yes": True, "on": True, "y": True, "1": True,
         "false": False, "no": False, "off": False, "n": False, "0": False}  # fmt: skip


def settle(execution: Execution, measurement: Measurement, way: Way) -> str | None:
    """Make compile true or false; returns why, where it was auto. Changes its first argument.

    Equal settings on equal devices come to the same, so that a run that was stopped, and each of its workers, does.
    Raises ConfigError for what is neither, and on a GPU for a measurement that cannot be run.
    """
    typed = str(execution.compile).lower()
    if typed != AUTO:
        if typed not in TYPED:
            raise ConfigError(f"compile={execution.compile}: must be {AUTO}, true or false")
        execution.compile = TYPED[typed]
        return None
    execution.compile, why = chosen(execution.device, measurement, way)
    return f"{str(execution.compile).lower()}, {why}"


def chosen(device: str, measurement: Measurement, way: Way) -> tuple[bool, str]:
    """Whether compile=auto compiles, and why."""
    if not is_cuda(device):
        return False, "as compiling is only known to pay on CUDA GPUs"
    if measurement.model.is_pipeline or measurement.model.network is not None:
        return False, "as only denoisers of this project are compiled unasked"
    if missing := lacks():
        return False, f"as torch.compile needs {missing} on a GPU"
    macs = macs_of(measurement, way)
    much = f"the run has {macs:.1e} multiply-accumulate operations without a cache"
    return macs >= WORTH_MACS, f"as {much}, and compiling pays from {WORTH_MACS:.0e} on"


def is_cuda(device: str) -> bool:
    """Whether `device=` is a CUDA GPU; loads torch only where there is a driver for one."""
    if device != "auto" and not device.startswith("cuda"):
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def lacks() -> str:
    """What torch.compile cannot do without on a GPU, and is not there; empty: nothing."""
    from torch.utils._triton import has_triton

    compilers = (os.environ.get("CC") or "cc", "gcc", "clang")
    if not has_triton():
        return "Triton"
    return "" if any(map(shutil.which, compilers)) else "a C compiler"


def macs_of(measurement: Measurement, way: Way) -> int:
    """Multiply-accumulate operations of a run's samples without a cache."""
    import torch

    from goc.models.dit import DiT

    check_measurement(measurement)
    shape: dict[str, Any] = measurement.model.shape()
    with torch.device("meta"):  # no time for weights
        model = DiT(**shape)
    rows = 2 if measurement.cfg_scale != 1.0 else 1
    return model.macs.forward * rows * way.num_evaluations * measurement.num_samples
