"""What follows the sampling of a batch, while the next one is sampled: a GPU's second stream, and a thread."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

import torch
from torch import Tensor


class SecondStream:
    """A stream of a GPU beside the one that samples; where there is none, what is entered runs as ever."""

    def __init__(self, device: torch.device, wanted: bool = True) -> None:
        self.stream = torch.cuda.Stream(device) if wanted and device.type == "cuda" else None

    def entered(self) -> AbstractContextManager[object]:
        """While it is entered, what this thread gives the GPU goes to the stream."""
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    @contextlib.contextmanager
    def after(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """The same, after all that the current stream was given until now: these tensors, which are read inside."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
            for tensor in tensors:
                if tensor.is_cuda:  # its memory is not for the next batch before it was read
                    tensor.record_stream(self.stream)
        with self.entered():
            yield


class Background:
    """A thread that does one piece of work at a time; a context, at whose end all of it is done.

    The first error of any work is raised by the next call of `start` or `wait`, or at the end, there also in place of
    an error of what went on meanwhile, which is of something later. threaded=False: work is done as it is started.
    """

    def __init__(self, threaded: bool = True) -> None:
        self.threaded = threaded
        self.failed: BaseException | None = None

    def __enter__(self) -> "Background":
        self.pool = ThreadPoolExecutor(1)
        self.working: Future[None] | None = None
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pool.shutdown()
        if not isinstance(error, KeyboardInterrupt | SystemExit):  # Ctrl-C and `Stopped` are told as they are
            self._raise()

    def start(self, work: Callable[[], None]) -> None:
        """Begin this work when the work before it is done, and raise the error of that, if it had one."""
        self._finish()
        if self.threaded:
            self.working = self.pool.submit(self._do, work)
        else:
            self._do(work)
        self._raise()

    def wait(self) -> None:
        """Until all work is done; raises its error."""
        self._finish()
        self._raise()

    def _finish(self) -> None:
        if self.working is not None:
            self.working.result()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failed = self.failed or error

    def _raise(self) -> None:
        if self.failed is not None:
            raise self.failed
