"""Imports torchvision, beside a CPU build of torch as well: to be imported before torch-fidelity, timm or diffusers.

Package indexes often carry a CPU build of torch but only the CUDA build of torchvision. Its compiled operators
then do not load, and torchvision fails at import because it annotates two operators that were never declared
(pytorch/vision issue 9085). None of them is used here, so declaring them is enough.

torchvision also loads torch's compiler, a second of processor time, for one function that only its roi_align calls;
here the compiler is loaded if that ever happens.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo.utils"


def declare_missing_operators() -> None:
    """Declare the operators that torchvision annotates at import, if its compiled library cannot be loaded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """While it is entered, functions of torch's compiler can be imported without loading it: they do so when called."""
    if COMPILER in sys.modules:
        yield
        return

    def of_the_compiler(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(COMPILER), name)(*args, **kwargs)

        return call

    stand_in = ModuleType(COMPILER)
    stand_in.__getattr__ = of_the_compiler  # type: ignore[method-assign]  # a module's own hook (PEP 562)
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[COMPILER]


declare_missing_operators()
with without_compiler():
    import torchvision  # noqa: F401  (for its side effect: it registers its operators)
