"""How a device computes: which one, in which number format, compiled or not, deterministic or not.

Whatever is special about GPUs is here; the rest of the project is handed a device, a model and a dtype.
"""

import contextlib
import ctypes
import os

import torch

from goc.system.errors import ConfigError
from goc.system.precision import PRECISIONS

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def torch_format(precision: str) -> torch.dtype | None:
    """The format of the denoiser's products with precision=, one of PRECISIONS; None: float32."""
    name = PRECISIONS[precision]
    return None if name is None else getattr(torch, name)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device of `device=`; "cuda" is a GPU of each worker's own. Raises ConfigError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: must be auto, cpu, or a device of this machine") from error
    return device


def reads_float8(device: torch.device) -> bool:
    """Whether compiled kernels can read float8 (e4m3fn) there: on GPUs from compute capability 8.9 on."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU to finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep_freed_memory() -> None:
    """Have glibc keep freed tensors for the next ones, where it is the C library.

    By default it returns large ones to the system and every step has their pages mapped anew, which costs a cached step
    a larger share of its time than a full one.
    """
    with contextlib.suppress(OSError, AttributeError):
        c_library = ctypes.CDLL(None)
        c_library.mallopt(M_MMAP_THRESHOLD, 2**30)
        c_library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def configure(device: torch.device, precision: str, deterministic: bool, threads: int | None) -> None:
    """Set what torch keeps for the whole process.

    fp32 means float32 throughout, tf32 that GPUs may round the factors of products to 10 bits of mantissa.
    deterministic: an operation without a deterministic algorithm raises an error.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    if deterministic != torch.are_deterministic_algorithms_enabled():  # asking loads torch's compiler, a second
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
