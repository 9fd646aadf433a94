"""Seeds -> shards: resumable generation, shared by any number of workers.

Work is cut into shards of `batch_size` consecutive samples; a restart makes what is missing or damaged. While a shard
is sampled, the one before it is decoded and gets its features (on a GPU), and is written (overlap.py).
"""

import contextlib
from functools import partial
from typing import Any

from filelock import Timeout
from torch import Tensor
from tqdm import tqdm

from goc.sampling.generation import SampleSource
from goc.sampling.interrupt import StopRequests
from goc.sampling.overlap import Background, SecondStream
from goc.sampling.shards import Keep, SampleSet
from goc.sampling.workers import Workers
from goc.system.stopping import keeping


def generate(
    generation: SampleSource,
    samples: SampleSet,
    keep: Keep,
    workers: Workers,
    overlapped: bool = True,
) -> int:
    """Make every shard that is not on disk yet, with the other workers; returns how many samples were made here.

    Each worker takes the shards that no other one is making, its own share first. The leader ends when all are on disk,
    having made those of workers that died; the others end when there is nothing left to take. Shows progress, rate and
    ETA. A signal to stop is obeyed between two shards (interrupt.py), when what was made is on disk.

    overlapped: whether a shard is decoded and written while the next one is sampled: the same bytes, with the samples
    of two shards in memory.
    """
    share_first = samples.shards[workers.rank :: workers.count]
    share_first += [indices for indices in samples.shards if indices not in share_first]
    samples.remove_copies()
    pending = [indices for indices in share_first if not samples.finished(indices, keep.names(indices))]
    if not pending:
        return 0

    beside = SecondStream(generation.device, overlapped)

    def make(indices: range, wait: bool) -> int:
        """Samples made of one shard; raises Timeout if another worker is making it and is not to be waited for."""
        with contextlib.ExitStack() as held:
            held.enter_context(samples.lock(indices).acquire(blocking=wait))
            if samples.finished(indices, keep.names(indices)):
                return 0
            sampled, made_with = generation.sample(indices)
            with beside.after(sampled.values()):
                made = generation.decoded(sampled)
                kept = keep(indices, made)
            background.start(partial(finish, indices, made, kept, generation.cost(made_with), held.pop_all()))
            return len(indices)

    def finish(
        indices: range,
        made: dict[str, Tensor],
        kept: dict[str, Tensor],
        cost: dict[str, Any],
        held: contextlib.ExitStack,
    ) -> None:
        """Wait for a shard's tensors and put it on disk, where other workers may see it."""
        with held, beside.entered():
            generation.check(indices, made)
            tensors = {name: tensor.cpu() for name, tensor in kept.items()}
            keep.check(tensors)
            samples.write(indices, tensors, cost)

    count, title = 0, generation.method
    bar = tqdm(total=samples.num_samples, initial=samples.made(), desc=title, unit="img", disable=not workers.leads)
    left_behind = "the finished shards are kept; the same command goes on from there"
    with bar as progress, keeping(left_behind), StopRequests() as stop, Background(overlapped) as background:
        for wait in (False, True) if workers.leads else (False,):
            left = []
            for indices in pending:
                try:
                    count += make(indices, wait)
                except Timeout:
                    left.append(indices)
                if stop.received is not None:
                    background.wait()
                progress.update(samples.made() - progress.n)
                stop.check()
            pending = left
        background.wait()
        progress.update(samples.made() - progress.n)
        stop.check()
    return count
