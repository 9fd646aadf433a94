"""Lets torchvision be imported beside a CPU build of torch (timm and torch-fidelity import it).

Package indexes often carry a CPU build of torch but only the CUDA build of torchvision. Its compiled operators
then do not load, and torchvision fails at import because it annotates two operators that were never declared
(pytorch/vision issue 9085). None of them is used here, so declaring them is enough.
"""

import importlib.util
from pathlib import Path

import torch


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


declare_missing_operators()
