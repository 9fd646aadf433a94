"""Seeds -> shards: resumable generation, shared by any number of workers.

Work is cut into shards of `batch_size` consecutive samples; a restart makes what is missing or damaged.
"""

from filelock import Timeout
from tqdm import tqdm

from goc.sampling.generation import SampleSource
from goc.sampling.interrupt import StopRequests
from goc.sampling.shards import Keep, SampleSet
from goc.sampling.workers import Workers
from goc.system.stopping import keeping


def generate(
    generation: SampleSource,
    samples: SampleSet,
    keep: Keep,
    workers: Workers,
) -> int:
    """Make every shard that is not on disk yet, with the other workers; returns how many samples were made here.

    Each worker takes the shards that no other one is making, its own share first. The leader ends when all are on disk,
    having made those of workers that died; the others end when there is nothing left to take. Shows progress, rate and
    ETA. A signal to stop is obeyed between two shards (interrupt.py).
    """
    own_share_first = samples.shards[workers.rank :: workers.count]
    own_share_first += [indices for indices in samples.shards if indices not in own_share_first]
    samples.remove_copies()
    pending = [indices for indices in own_share_first if not samples.finished(indices, keep.names(indices))]
    if not pending:
        return 0

    def make(indices: range, wait: bool) -> int:
        """Samples made of one shard; raises Timeout if another worker is making it and is not to be waited for."""
        with samples.lock(indices).acquire(blocking=wait):
            if samples.finished(indices, keep.names(indices)):
                return 0
            made, cache = generation.make(indices)
            samples.write(indices, keep(indices, made), generation.cost(cache))
            return len(indices)

    count, title = 0, generation.method
    bar = tqdm(total=samples.num_samples, initial=samples.made(), desc=title, unit="img", disable=not workers.leads)
    kept = "the finished shards are kept; the same command goes on from there"
    with bar as progress, keeping(kept), StopRequests() as stop:
        for wait in (False, True) if workers.leads else (False,):
            left = []
            for indices in pending:
                try:
                    count += make(indices, wait)
                except Timeout:
                    left.append(indices)
                progress.update(samples.made() - progress.n)
                stop.check()
            pending = left
    return count
