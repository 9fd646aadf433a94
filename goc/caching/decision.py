"""WHEN a step is skipped, decided as it begins: published rules, each of what a sample's network shows.

d(a, b) = mean|a - b| / mean|b| over all of one sample throughout. A rule is asked in each step, and told what was done
in it, for some samples that are decided each by itself.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from goc.models.seen import Looked, Seen


def relative_change(before: Tensor, now: Tensor) -> float:
    """Relative L1 change of a signal: |now - before| / |before|; 0 where it does not change, even from nothing."""
    return relative_changes(before, now, 1)[0]


def relative_changes(before: Tensor, now: Tensor, samples: int) -> list[float]:
    """The same of each of some samples, whose rows these are."""
    return relative(sizes(now - before, samples), sizes(before, samples)).tolist()


def relative(change: Tensor, size: Tensor) -> Tensor:
    """change / size, both at least 0 and broadcast; 0 where nothing changes, also where there is nothing."""
    return torch.where(change == 0, torch.zeros_like(change), change / size)


def sizes(x: Tensor, samples: int) -> Tensor:
    """Mean |x| of each sample, [samples]; x [N, ...] as `goc.models.seen.Seen` has its rows."""
    return x.abs().unflatten(0, (-1, samples)).transpose(0, 1).flatten(1).mean(dim=1)


def where(flags: Sequence[bool], x: Tensor, y: Tensor) -> Tensor:
    """The rows of x [N, ...] for the samples with a flag, and y's for the others."""
    if all(flags):
        return x
    chosen = torch.tensor(flags, device=x.device).repeat(len(x) // len(flags))
    return torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), x, y)


class Decision(ABC):
    """A rule, with the state of one trajectory of some samples. What it looks at, what that costs, skip or compute.

    blocks: how many first blocks are computed in every step. of_all: whether a skipped step adds what all blocks did to
    the input of the first, or what the others did to what comes out of these. of_network: whether it stands in for the
    whole network, from its input to its output.
    """

    blocks = 0
    of_all = True
    of_network = False

    @abstractmethod
    def allows(self, step: int, seen: Seen) -> list[bool]:
        """Whether each sample may skip this step, by what is seen; called once in each step, also where none may."""

    @abstractmethod
    def done(self, skipped: Sequence[bool]) -> None:
        """What became of the step, for each sample."""

    def looked(self, sample: int) -> Looked:
        """What was computed for a sample only to be looked at, up to now."""
        return Looked()

    def computed(self, seen: Seen, output: Tensor) -> None:  # noqa: B027  (rules of the network alone listen)
        """The network's output [N, ...] in a step that a sample computed, for rules of the network."""

    def checks(self, sample: int) -> bool:
        """Whether a sample that skips this step has its last block computed all the same, for `checked`."""
        return False

    def checked(  # noqa: B027  (few check)
        self, samples: Sequence[int], predicted: Tensor, computed: Tensor
    ) -> None:
        """What comes out of the last block [N, tokens, hidden] as predicted and as computed, for these samples."""


class Summed(Decision):
    """Changes are summed since the last computed step, and steps skipped while the sum is below the threshold."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.sums = threshold, list[float]()

    @abstractmethod
    def changes(self, step: int, seen: Seen) -> list[float] | None:
        """How much each sample changed since the step before; None: that is not known yet."""

    def allows(self, step: int, seen: Seen) -> list[bool]:
        changes = self.changes(step, seen)
        if changes is None:
            self.sums = [0.0] * seen.samples
            return [False] * seen.samples
        self.sums = [total + change for total, change in zip(self.sums, changes, strict=True)]
        return [total < self.threshold for total in self.sums]

    def done(self, skipped: Sequence[bool]) -> None:
        self.sums = [total if skip else 0.0 for total, skip in zip(self.sums, skipped, strict=True)]


class Accumulated(Summed):
    """Of a signal, its relative change."""

    signal: Tensor | None = None

    @abstractmethod
    def signal_of(self, step: int, seen: Seen) -> Tensor:
        """What is watched."""

    def changes(self, step: int, seen: Seen) -> list[float] | None:
        before, self.signal = self.signal, self.signal_of(step, seen)
        return None if before is None else relative_changes(before, self.signal, seen.samples)


class TeaCache(Accumulated):
    """Of the first block's modulated input (TeaCache, arXiv 2411.19108, section 3.3, without its polynomial)."""

    steps = 0  # up to now

    def signal_of(self, step: int, seen: Seen) -> Tensor:
        self.steps = step + 1
        return seen.modulated_input()

    def looked(self, sample: int) -> Looked:
        return Looked(modulated_inputs=self.steps)


class DiCache(Accumulated):
    """Of the hidden states after the first blocks, the probe (DiCache, arXiv 2508.17356, sections 3.2 and 3.3).

    What stands in is aligned by the probe: `goc.caching.probe.ProbeAligned`. The authors' error is the probe's change
    (delta_y); what their code calls delta_minus, less the input's, is not here.
    """

    def __init__(self, threshold: float, blocks: int = 1) -> None:
        super().__init__(threshold)
        self.blocks = blocks

    def signal_of(self, step: int, seen: Seen) -> Tensor:
        return seen.after.clone()


class SeaCache(Accumulated):
    """Of the network's input, filtered to what it says of the image (SeaCache, arXiv 2602.18993, equations 5 to 7).

    Not more than `most` steps are skipped in a row; 0: no limit.

    Args:
        noise: its scale over the signal's, in each step. exponent: see `wiener`.
    """

    def __init__(self, threshold: float, noise: Sequence[float], exponent: float, most: int) -> None:
        super().__init__(threshold)
        self.noise, self.exponent, self.most, self.in_a_row = noise, exponent, most, list[int]()

    def signal_of(self, step: int, seen: Seen) -> Tensor:
        return wiener(seen.latents, self.noise[step], self.exponent)

    def allows(self, step: int, seen: Seen) -> list[bool]:
        below = super().allows(step, seen)
        self.in_a_row = self.in_a_row or [0] * seen.samples
        return [is_below and not 0 < self.most <= n for is_below, n in zip(below, self.in_a_row, strict=True)]

    def done(self, skipped: Sequence[bool]) -> None:
        super().done(skipped)
        self.in_a_row = [n + 1 if skip else 0 for n, skip in zip(self.in_a_row, skipped, strict=True)]


def wiener(latents: Tensor, noise: float, exponent: float) -> Tensor:
    """Latents [N, C, ...] through the Wiener filter of images, along all axes after the channels.

    Along each axis a clean image's power at frequency f is f^-exponent; with noise of a scale `noise` over the
    signal's, the gain is power / (power + noise^2), and their product is normalised to a mean of 1.
    """
    axes, gain = tuple(range(2, latents.ndim)), torch.ones((), device=latents.device)
    for axis in axes:
        frequencies = torch.fft.fftfreq(latents.shape[axis], device=latents.device, dtype=torch.float32)
        along = 1.0 / (1.0 + noise**2 * frequencies.abs() ** exponent)
        gain = gain * along.reshape([-1 if i == axis else 1 for i in range(1, latents.ndim)])
    spectrum = torch.fft.fftn(latents.float(), dim=axes)
    return torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=axes).real.to(latents.dtype)


class FirstBlock(Decision):
    """What the first blocks add, against the last computed step's (FBCache; cache-dit's DBCache: arXiv 2510.05367).

    A step is skipped unless the change is larger than the threshold, and then adds what the other blocks added.
    """

    of_all = False

    def __init__(self, threshold: float, blocks: int = 1) -> None:
        self.threshold, self.blocks = threshold, blocks
        self.last: Tensor | None = None

    def allows(self, step: int, seen: Seen) -> list[bool]:
        self.now = seen.after - seen.before
        if self.last is None:
            return [False] * seen.samples
        return [change <= self.threshold for change in relative_changes(self.last, self.now, seen.samples)]

    def done(self, skipped: Sequence[bool]) -> None:
        self.last = self.now if self.last is None else where(skipped, self.last, self.now)


class EasyCache(Summed):
    """Of the network's input x, times how much its output o changed with it (EasyCache, arXiv 2507.02860, section 3.2).

    Sums k mean|x_i - x_(i-1)| / mean|o| since the last computed step, o its output, with the rate
    k = mean|o - o'| / mean|x - x'| over the last two computed steps. Skipped steps give x + (o - x).
    """

    of_network = True

    def __init__(self, threshold: float) -> None:
        super().__init__(threshold)
        self.before: Tensor | None = None  # the input of the last step
        self.pair: tuple[Tensor, Tensor] | None = None  # input and output of the last computed one
        self.rates: list[float] | None = None
        self.skipped: Sequence[bool] = ()  # of this step

    def changes(self, step: int, seen: Seen) -> list[float] | None:
        before, self.before = self.before, seen.latents.clone()
        if before is None or self.pair is None or self.rates is None:
            return None
        size = sizes(self.pair[1], seen.samples)
        changes = relative(sizes(seen.latents - before, seen.samples), size).tolist()
        return [rate * change for rate, change in zip(self.rates, changes, strict=True)]

    def done(self, skipped: Sequence[bool]) -> None:
        super().done(skipped)
        self.skipped = skipped

    def computed(self, seen: Seen, output: Tensor) -> None:
        x, o = seen.latents.clone(), output.clone()
        if self.pair is not None:
            last_x, last_o = self.pair
            rates = relative(sizes(o - last_o, seen.samples), sizes(x - last_x, seen.samples)).tolist()
            known = zip(self.rates or rates, rates, self.skipped, strict=True)
            self.rates = [old if skip else new for old, new, skip in known]
            x, o = where(self.skipped, last_x, x), where(self.skipped, last_o, o)
        self.pair = x, o


class Verify(Decision):
    """Of the last block, computed beside its prediction (SpeCa, arXiv 2509.11628).

    After a computed step, one is predicted. After `least` predicted ones each prediction is checked: a step is computed
    if the error in the step before, mean |predicted - computed| / (|computed| + 1e-10) of what comes out of the last
    block, was above base * decay^((step + 1) / steps), but at least `TOLERATED`; and after `most` predicted ones.
    A prediction is used whatever its own error is.
    """

    TOLERATED = 0.01

    def __init__(self, base: float, decay: float, least: int, most: int, steps: int) -> None:
        self.base, self.decay, self.least, self.most, self.steps = base, decay, least, most, steps
        self.predicted = list[int]()  # steps in a row, of each sample
        self.errors = list[float | None]()  # in the step before, where it was checked
        self.made = Counter[int]()  # checks of each sample

    def allows(self, step: int, seen: Seen) -> list[bool]:
        self.predicted = self.predicted or [0] * seen.samples
        self.errors = self.errors or [None] * seen.samples
        tolerated = max(self.base * self.decay ** ((step + 1) / self.steps), self.TOLERATED)
        return [
            n < self.most and (error is None or error <= tolerated)
            for n, error in zip(self.predicted, self.errors, strict=True)
        ]

    def done(self, skipped: Sequence[bool]) -> None:
        self.predicted = [n + 1 if skip else 0 for n, skip in zip(self.predicted, skipped, strict=True)]
        self.errors = [None] * len(skipped)

    def checks(self, sample: int) -> bool:
        return self.predicted[sample] > self.least

    def checked(self, samples: Sequence[int], predicted: Tensor, computed: Tensor) -> None:
        errors = sizes((predicted - computed) / (computed.abs() + 1e-10), len(samples)).tolist()
        for sample, error in zip(samples, errors, strict=True):
            self.errors[sample] = error
        self.made.update(samples)

    def looked(self, sample: int) -> Looked:
        return Looked(last_blocks=self.made[sample])
