"""What the steps of a pipeline's call give, and how long they take, seen at its scheduler, which ends each of them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goc.pipelines.early import until
from goc.pipelines.enable import transformers_of
from goc.pipelines.hooks.replaced import replaced
from goc.system.device import synchronize


class Watch:
    """Looks at the calls of a pipeline's transformer and of its scheduler.

    latents: what the last step gave; None: the scheduler was not asked. finite: for each step, whether its values are,
    as tensors, so that no GPU is waited for. seconds: of each step, from the first call of the transformer to the end
    of the scheduler's work, if `timed`. rows: samples that the transformer was given so far, guidance's among them.

    Args:
        pipe: with `transformer` and `scheduler`.
        device: of the pipeline.
        timed: whether steps are timed; the device is then waited for.
        last: number of the step after which the call ends; None: it goes on to the image.
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

        def step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._after(result[0])
            if self.last is not None and len(self.finite) > self.last:
                leave()  # nobody needs the image
            return result

        with contextlib.ExitStack() as hooks:
            for transformer in transformers_of(self.pipe).values():
                hooks.enter_context(transformer.register_forward_pre_hook(self._before, with_kwargs=True))
            with until() as leave, replaced(self.pipe.scheduler, "step", step):
                yield

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
