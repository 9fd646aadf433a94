"""What the steps of a pipeline's call give, and how long they take, seen at its scheduler, which ends each of them."""

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goc.system.device import synchronize


class Finished(Exception):  # noqa: N818  (not an error: it ends a call whose image nobody needs)
    """Ends a pipeline's call after its last step."""


class Watch:
    """Looks at the calls of a pipeline's transformer and of its scheduler.

    latents: what the last step gave; None: the scheduler was not asked. finite: for each step, whether its values are,
    as tensors, so that no GPU is waited for. seconds: of each step, from the first call of the transformer to the end
    of the scheduler's work, if `timed`. rows: samples that the transformer was given so far, guidance's among them.

    Args:
        pipe: with `transformer` and `scheduler`.
        device: of the pipeline.
        timed: whether steps are timed; the device is then waited for.
        last: number of the step after which the call ends with Finished; None: it goes on to the image.
    """

    def __init__(self, pipe: Any, device: torch.device, timed: bool = False, last: int | None = None) -> None:
        self.pipe, self.device, self.timed, self.last = pipe, device, timed, last
        self.latents: Tensor | None = None
        self.finite: list[Tensor] = []
        self.seconds: list[float] = []
        self.rows = 0
        self.started: float | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, calls of the pipeline are seen."""
        scheduler, transformer = self.pipe.scheduler, self.pipe.transformer
        step = scheduler.step

        @functools.wraps(step)  # pipelines ask which arguments it has
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            self._after(result[0])
            return result

        scheduler.step = watched
        handle = transformer.register_forward_pre_hook(self._before, with_kwargs=True)
        try:
            yield
        except Finished:
            pass
        finally:
            handle.remove()
            del scheduler.step

    def _before(self, transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self.rows += len(tensors[0])
        if self.timed and self.started is None:
            synchronize(self.device)
            self.started = time.perf_counter()

    def _after(self, latents: Tensor) -> None:
        if self.started is not None:
            synchronize(self.device)
            self.seconds.append(time.perf_counter() - self.started)
            self.started = None
        self.latents = latents
        self.finite.append(torch.isfinite(latents).all())
        if self.last is not None and len(self.finite) > self.last:
            raise Finished
