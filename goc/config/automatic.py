"""compile=auto and graphs=auto: whether a run is one that they pay for, by its settings and its device alone."""

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
# of an evaluation, up to which launching takes longer than the kernels: DiT-XL/2 with 16 rows in bf16 on an H100
LAUNCH_MACS = 2e12
FEWEST_BATCHES = 10  # as three are computed for the graphs of each size
TYPED = {"true": True, "yes": True, "on": True, "y": True, "1": True,
         "false": False, "no": False, "off": False, "n": False, "0": False}  # fmt: skip


def settle(execution: Execution, measurement: Measurement, way: Way) -> dict[str, str]:
    """Make compile and graphs true or false; returns why, by the setting, where one was auto. Changes its argument.

    Equal settings on equal devices come to the same, so that a run that was stopped, and each of its workers, does.
    Raises ConfigError for what is neither, and on a GPU for a measurement that cannot be run.
    """
    why = {}
    for setting, reason in (("compile", worth_compiling), ("graphs", worth_capturing)):
        given = getattr(execution, setting)
        typed = str(given).lower()
        if typed not in (AUTO, *TYPED):
            raise ConfigError(f"{setting}={given}: must be {AUTO}, true or false")
        value = TYPED.get(typed, False)
        if typed == AUTO:
            value, because = unasked(execution.device, measurement) or reason(measurement, way)
            why[setting] = f"{str(value).lower()}, as {because}"
        setattr(execution, setting, value)
    return why


def unasked(device: str, measurement: Measurement) -> tuple[bool, str] | None:
    """Why nothing is done unasked; None: something may be."""
    if not is_cuda(device):
        return False, "that is only known to pay on CUDA GPUs"
    if measurement.model.is_pipeline or measurement.model.network is not None:
        return False, "that is only known to pay with denoisers of this project"
    return None


def worth_compiling(measurement: Measurement, way: Way) -> tuple[bool, str]:
    """Whether a run on a CUDA GPU is long enough for compile=true, and why."""
    if missing := lacks():
        return False, f"torch.compile needs {missing} on a GPU"
    macs = evaluation_macs(measurement, 1) * way.num_evaluations * measurement.num_samples
    much = f"the run has {macs:.1e} multiply-accumulate operations without a cache"
    return macs >= WORTH_MACS, f"{much}, and compiling pays from {WORTH_MACS:.0e} on"


def worth_capturing(measurement: Measurement, way: Way) -> tuple[bool, str]:
    """Whether a run on a CUDA GPU has batches small and many enough for graphs=true, and why."""
    macs, batches = evaluation_macs(measurement, way.batch_size), measurement.num_samples // max(1, way.batch_size)
    much = f"{batches} batches have {macs:.1e} multiply-accumulate operations an evaluation"
    paying = f"graphs pay for at least {FEWEST_BATCHES} of at most {LAUNCH_MACS:.0e}"
    return batches >= FEWEST_BATCHES and macs <= LAUNCH_MACS, f"{much}, and {paying}"


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


def evaluation_macs(measurement: Measurement, samples: int) -> int:
    """Multiply-accumulate operations of the network's evaluation of so many samples without a cache."""
    import torch

    from goc.models.dit import DiT

    check_measurement(measurement)
    shape: dict[str, Any] = measurement.model.shape()
    with torch.device("meta"):  # no time for weights
        model = DiT(**shape)
    return model.macs.forward * samples * (2 if measurement.cfg_scale != 1.0 else 1)
