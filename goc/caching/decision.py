"""WHEN a step is skipped, decided as it begins: published rules, each of what one sample's network shows.

d(a, b) = mean|a - b| / mean|b| throughout. A rule is asked in each step, and told what was done in it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from goc.models.seen import Seen


def relative_change(before: Tensor, now: Tensor) -> float:
    """Relative L1 change of a signal: |now - before| / |before|; 0 where it does not change, even from nothing."""
    return float(relative((now - before).abs().mean(), before.abs().mean()))


def relative(change: Tensor, size: Tensor) -> Tensor:
    """change / size, both at least 0 and broadcast; 0 where nothing changes, also where there is nothing."""
    return torch.where(change == 0, torch.zeros_like(change), change / size)


class Decision(ABC):
    """One sample's rule; it holds the state of one trajectory.

    blocks: how many first blocks are computed in every step. of_all: whether a skipped step adds what all blocks did to
    the input of the first, or what the others did to what comes out of these. of_network: whether it stands in for the
    whole network, from its input to its output.
    """

    blocks = 0
    of_all = True
    of_network = False

    @abstractmethod
    def allows(self, step: int, seen: Seen) -> bool:
        """Whether this step may be skipped, by what is seen; called once in each step, also where it must not be."""

    @abstractmethod
    def done(self, skipped: bool) -> None:
        """What became of the step."""

    def computed(self, seen: Seen, output: Tensor) -> None:  # noqa: B027  (rules of the network alone listen)
        """The network's output [N, ...] in a computed step, for rules of the network."""


class Accumulated(Decision):
    """Changes are summed since the last computed step, and steps skipped while the sum is below the threshold."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.sum = threshold, 0.0
        self.signal: Tensor | None = None

    @abstractmethod
    def signal_of(self, step: int, seen: Seen) -> Tensor:
        """What is watched."""

    def allows(self, step: int, seen: Seen) -> bool:
        before, self.signal = self.signal, self.signal_of(step, seen)
        if before is None:
            return False
        self.sum += relative_change(before, self.signal)
        return self.sum < self.threshold

    def done(self, skipped: bool) -> None:
        if not skipped:
            self.sum = 0.0


class TeaCache(Accumulated):
    """Of the first block's modulated input (TeaCache, arXiv 2411.19108, section 3.3, without its polynomial)."""

    def signal_of(self, step: int, seen: Seen) -> Tensor:
        return seen.modulated_input()


class DiCache(Accumulated):
    """Of the hidden states after the first blocks, the probe (DiCache, arXiv 2508.17356, sections 3.2 and 3.3).

    What stands in is aligned by the probe: `goc.caching.probe.ProbeAligned`. The authors' error is the probe's change
    (delta_y); what their code calls delta_minus, less the input's, is not here.
    """

    def __init__(self, threshold: float, blocks: int = 1) -> None:
        super().__init__(threshold)
        self.blocks = blocks

    def signal_of(self, step: int, seen: Seen) -> Tensor:
        return seen.after


class SeaCache(Accumulated):
    """Of the network's input, filtered to what it says of the image (SeaCache, arXiv 2602.18993, equations 5 to 7).

    Not more than `most` steps are skipped in a row; 0: no limit.

    Args:
        noise: its scale over the signal's, in each step. exponent: see `wiener`.
    """

    def __init__(self, threshold: float, noise: Sequence[float], exponent: float, most: int) -> None:
        super().__init__(threshold)
        self.noise, self.exponent, self.most, self.in_a_row = noise, exponent, most, 0

    def signal_of(self, step: int, seen: Seen) -> Tensor:
        return wiener(seen.latents, self.noise[step], self.exponent)

    def allows(self, step: int, seen: Seen) -> bool:
        below = super().allows(step, seen)
        return below and not (self.most and self.in_a_row >= self.most)

    def done(self, skipped: bool) -> None:
        super().done(skipped)
        self.in_a_row = self.in_a_row + 1 if skipped else 0


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

    def allows(self, step: int, seen: Seen) -> bool:
        self.now = seen.after - seen.before
        return self.last is not None and relative_change(self.last, self.now) <= self.threshold

    def done(self, skipped: bool) -> None:
        if not skipped:
            self.last = self.now


class EasyCache(Decision):
    """Of the network's input x, times how much its output o changed with it (EasyCache, arXiv 2507.02860, section 3.2).

    Sums k mean|x_i - x_(i-1)| / mean|o| since the last computed step, o its output, with the rate
    k = mean|o - o'| / mean|x - x'| over the last two computed steps. Skipped steps give x + (o - x).
    """

    of_network = True

    def __init__(self, threshold: float) -> None:
        self.threshold, self.sum = threshold, 0.0
        self.before: Tensor | None = None  # the input of the last step
        self.pair: tuple[Tensor, Tensor] | None = None  # input and output of the last computed one
        self.rate: float | None = None

    def allows(self, step: int, seen: Seen) -> bool:
        before, self.before = self.before, seen.latents.clone()
        if before is None or self.pair is None or self.rate is None:
            return False
        change, size = (seen.latents - before).abs().mean(), self.pair[1].abs().mean()
        self.sum += self.rate * float(relative(change, size))
        return self.sum < self.threshold

    def done(self, skipped: bool) -> None:
        if not skipped:
            self.sum = 0.0

    def computed(self, seen: Seen, output: Tensor) -> None:
        if self.pair is not None:
            last_input, last_output = self.pair
            changes = ((a - b).abs().mean() for a, b in ((output, last_output), (seen.latents, last_input)))
            self.rate = float(relative(*changes))
        self.pair = seen.latents.clone(), output.clone()
