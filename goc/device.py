"""How a device computes: which one, in which number format, compiled or not, deterministic or not.

Whatever is special about GPUs is here; the rest of the project is handed a device, a model and a dtype.
"""

import contextlib
import ctypes
import os

import torch
from torch import nn

from goc.errors import ConfigError
from goc.models.dit import DiT

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

# the format of matrix products and of what they give; None: float32
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()


def prepare(model: DiT, device: torch.device, precision: str, compiled: bool) -> DiT:
    """The model on its device, its linear and convolution weights in the precision's format; changes the argument.

    With 16-bit formats the forward pass is to run under autocast: products are in 16 bits, and the residual stream,
    norms and sampler stay in float32. The weights are converted once here, since autocast would do it in every step.
    """
    model.to(device)
    dtype = PRECISIONS[precision]
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
    if compiled:
        model.compile_branches()
    return model
