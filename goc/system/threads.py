"""Work in threads, whose results come in the order of what they are of, however many threads there are."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
AHEAD = 8  # results of a thread that may wait to be taken


def in_order(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """What `work` makes of each item, in order; at most AHEAD a thread are held. The first error ends it."""
    if workers == 1:
        yield from map(work, items)
        return
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[B]]()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
