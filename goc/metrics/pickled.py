"""Arrays of a pickle, as EDM2 publishes statistics in; nothing in it is ever run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

# what numpy's arrays and numbers are pickled by, under the names of its versions
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", multiarray._reconstruct),
            ("multiarray", "scalar", multiarray.scalar),
            ("numeric", "_frombuffer", vars(numeric)["_frombuffer"]),
        )
    },
}
UNREADABLE = (
    pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, ImportError,
    MemoryError, OverflowError, RecursionError,
)  # fmt: skip


class ArraysAlone(pickle.Unpickler):
    """Reads Python's containers and numbers, and numpy's arrays of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for, of the few that are allowed; raises UnpicklingError."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return ALLOWED[module, name]


def read_arrays(path: Path) -> dict[str, Any]:
    """A pickled dict of arrays; raises one of UNREADABLE if the file holds, or would run, anything else."""
    with path.open("rb") as file:
        content = ArraysAlone(file).load()
    if not isinstance(content, dict):
        raise ValueError("it holds no dict")
    return content
