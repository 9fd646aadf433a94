"""What a CUDA graph is to its user, on a CPU: operations, computed again where they were computed before."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Records the operations inside it, with the very tensors that they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        """Compute all of them again, each result into the memory that it had."""
        for func, args, kwargs, made in self.operations:
            again = func(*args, **kwargs)
            for before, now in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(before, Tensor) and before.data_ptr() != now.data_ptr():
                    before.copy_(now)


def tape_capture(without: str = "") -> Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]:
    """As `goc.sampling.graphs.cuda_capture`. without: an operation, of which the last one is left out of the tape."""

    def capture(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        with Tape() as tape:
            output = compute()
        if without:
            del tape.operations[max(i for i, (func, *_) in enumerate(tape.operations) if without in str(func))]
        return tape.replay, output

    return capture
