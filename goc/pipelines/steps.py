"""Which sampling step a call of the transformer belongs to, and which of the calls in it: guidance may make several."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, groupby


class StepCounter:
    """Counts the steps of one pipeline call by the timesteps that its transformer is called with.

    A step is where the timestep changes. Some schedulers (Heun's, PNDM) go through a timestep twice in a row, and some
    pipelines call the transformer twice in a step (once conditional, once not): the first are told apart from the
    second by the scheduler's timesteps and by the names of cache contexts, or, where calls have none, by how many were
    made in the first step.

    Args:
        timesteps: what the scheduler goes through, one number for each step.
    """

    def __init__(self, timesteps: Sequence[float]) -> None:
        self.repeats = [len(list(group)) for _, group in groupby(timesteps)]
        self.first = [0, *accumulate(self.repeats)]
        self.group = -1
        self.timestep: float | None = None
        self.calls: Counter[str | None] = Counter()
        self.unnamed = 1  # calls in a step that have no name

    def locate(self, timestep: float, name: str | None) -> tuple[int, str]:
        """The step of a call, 0 = the noisiest, and the name of the stream of calls, one a step, that it is of.

        name: of its cache context, None without one.
        """
        if timestep != self.timestep:
            if self.group == 0 and self.repeats[0] == 1:
                self.unnamed = max(1, self.calls[None])
            self.group, self.timestep = self.group + 1, timestep
            self.calls.clear()
        call = self.calls[name]
        self.calls[name] += 1
        repeats = self.repeats[self.group] if self.group < len(self.repeats) else 1
        step = self.first[min(self.group, len(self.repeats))]
        streams = self.unnamed if name is None else 1
        if repeats > 1:
            again, call = divmod(call, streams)
            step += min(again, repeats - 1)
        return step, f"{name or ''}#{call}"
