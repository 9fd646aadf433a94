"""Lets torchvision be imported beside a CPU build of torch as well, whoever imports it: diffusers, timm, transformers.

Package indexes often carry a CPU build of torch but only the CUDA build of torchvision. Its compiled operators
then do not load, and torchvision fails at import because it annotates two operators that were never declared
(pytorch/vision issue 9085). None of them is used here, so declaring them is enough.

torchvision also loads torch's compiler, a second of processor time, for one function that only its roi_align calls;
here the compiler is loaded if that ever happens.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

TORCHVISION = "torchvision"
COMPILER = "torch._dynamo.utils"


class Mended(MetaPathFinder):
    """Finds torchvision with what its import needs; others may look for it before they import it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != TORCHVISION:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None or spec.loader is None:
            return spec
        folder, load = Path(spec.origin).parent, spec.loader.exec_module

        def load_mended(module: ModuleType) -> None:
            declare_missing_operators(folder)
            with without_compiler():
                load(module)

        spec.loader.exec_module = load_mended  # type: ignore[method-assign]  # of this one object
        return spec


def mend_import() -> None:
    """Have the first import of torchvision from now on succeed."""
    if TORCHVISION not in sys.modules:
        sys.meta_path.insert(0, Mended())


def declare_missing_operators(folder: Path) -> None:
    """Declare the operators that torchvision annotates at import, if its compiled library there cannot be loaded."""
    import torch

    try:
        for library in folder.glob("_C*.so"):
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
