"""Peak memory of this process and of its GPU, measured anew for each piece of work."""

import contextlib
import resource
import sys
from pathlib import Path

import torch


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring anew, where the system can: Linux, and every CUDA device."""
    with contextlib.suppress(OSError):  # then the peak since the start of the process is what there is
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak bytes since `reset_peak_memory`: resident memory of the process, and of the CUDA device if it is one."""
    try:
        status = Path("/proc/self/status").read_text()
        resident = int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        return {"peak_memory_bytes": resident, "peak_cuda_bytes": torch.cuda.max_memory_allocated(device)}
    return {"peak_memory_bytes": resident}
