"""A network's evaluations as CUDA graphs: their kernels, launched at once, where launching them is the bound.

A graph is what an evaluation launched when it was captured, with the addresses that were read and written. What a
cache holds from one evaluation to the next lies where the graphs before left it: those of a trajectory share a pool of
memory, and are replayed in the order in which they were captured. No line of Python of an evaluation runs when it is
replayed, so its cache must be one whose steps are known beforehand.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from goc.caching.cache import ScheduledCache, StepCache

Model = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, t, y) -> output
Around = Callable[[Model], Model]
Sample = Callable[[range, StepCache | None, Around], Tensor]  # a batch's indices, its cache, its network -> latents
# from what computes an output to what computes it again, from the same inputs into the same output, and the output
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
CAPTURED_AFTER = 2  # trajectories of a size: the first loads all kernels, and a last shard's size has but one

log = logging.getLogger(__name__)


def cuda_capture() -> Capture:
    """Captures in CUDA graphs that share a pool."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # another thread may copy the shard before to the CPU meanwhile
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = compute()
        return graph.replay, output

    return capture


@dataclass
class Evaluation:
    """One captured evaluation: what it reads (x, t, y), what it writes, and what computes it again."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    replay: Callable[[], None]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The output for other inputs of the same shapes, a tensor of its own."""
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.replay()
        return self.output.clone()


@dataclass
class Trajectory:
    """The evaluations of trajectories of one size, captured in one of them, in their order.

    cache: of that one; None: no cache, so that one graph serves all evaluations.
    """

    capture: Capture
    cache: StepCache | None
    evaluations: list[Evaluation] = field(default_factory=list)

    def captured(self, model: Model) -> Model:
        """The network in the trajectory that is captured: each evaluation is, and then replayed."""

        def evaluate(*inputs: Tensor) -> Tensor:
            if self.cache is None and self.evaluations:
                return self.evaluations[0](*inputs)
            held = tuple(given.clone() for given in inputs)
            replay, output = self.capture(lambda: model(*held))
            self.evaluations.append(Evaluation(held, output, replay))
            return self.evaluations[-1](*inputs)

        return evaluate

    def replayed(self, _: Model) -> Model:
        """The network in another trajectory, from its first evaluation on."""
        order = iter(self.evaluations)

        def evaluate(*inputs: Tensor) -> Tensor:
            return (self.evaluations[0] if self.cache is None else next(order))(*inputs)

        return evaluate


def can_be_captured(cache: StepCache | None) -> bool:
    """Whether a cache's steps are known beforehand, so that an evaluation launches the same in every batch."""
    return cache is None or (type(cache) is ScheduledCache and cache.selection is None)


@dataclass
class Graphs:
    """The graphs of generations whose caches `new_cache` makes, by the number of samples in a batch.

    off: why there are none any more; empty: there may be.
    """

    new_cache: Callable[[], StepCache] | None = None
    new_capture: Callable[[], Capture] = cuda_capture
    counts: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, Trajectory] = field(default_factory=dict)
    off: str = ""

    def due(self, samples: int, cache: StepCache | None) -> bool:
        """Whether a trajectory of so many samples, which is computed now, is to be captured after that."""
        if not self.off and not can_be_captured(cache):
            self.refuse("what this cache computes is not known beforehand")
        self.counts[samples] = self.counts.get(samples, 0) + 1
        return not self.off and self.counts[samples] == CAPTURED_AFTER

    def prove(self, cache: StepCache | None, batches: Sequence[range], sample: Sample, expected: Tensor) -> None:
        """Capture a trajectory, and keep its graphs if their replay makes the same bits of another batch.

        batches: the one to capture, and another of as many samples, which ends at `expected` [n, ...] without graphs.
        Of what was captured that one only finds what it computes anew. Where it ends elsewhere, or an evaluation cannot
        be captured, all is computed as ever from now on, which is logged once.
        """
        captured, proven = batches
        trajectory = Trajectory(self.new_capture(), cache)
        try:
            sample(captured, cache, trajectory.captured)
            replayed = sample(proven, cache, trajectory.replayed)
        except RuntimeError as error:
            self.refuse(f"an evaluation cannot be captured ({str(error).splitlines()[0]})")
            return
        if torch.equal(replayed, expected):
            self.sizes[len(proven)] = trajectory
        else:
            self.refuse("a replay does not end at the same bits")

    def refuse(self, why: str) -> None:
        """Do without graphs from now on."""
        self.off = why
        self.sizes.clear()
        log.warning("graphs: steps are launched kernel by kernel, as %s", why)
