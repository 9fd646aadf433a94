"""The times of a solver's evaluations as parameters that may be any numbers, and known grids to begin training with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from goc.models.objective import DIFFUSION
from goc.sampling.generation import Generation
from goc.sampling.linear import differentiable
from goc.sampling.noise import TRAINING_STEPS, NoiseSchedule
from goc.sampling.options import TimedConfig
from goc.sampling.solvers import Solver
from goc.sampling.timesteps import Times

SMALLEST = 1e-4  # share of the span between two times at a training's start
POWERS = (0.7, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class LearnedTimes:
    """The times of a sampler's evaluations, one a step, as float64 parameters [2, steps].

    Row 0: logits, of which softmax gives the lengths between times, the last one to the data. The first time is that of
    the noise, as in LD3 (Tong et al., arXiv 2405.15506), which also fixes the end of the last step. Row 1: how far the
    time that the network is given is from the evaluation's, as in LD3's second stage: tanh, in units of half the way to
    the nearest other time; the first is the noise's.
    """

    sampler: TimedConfig

    @property
    def end(self) -> float:
        return self.sampler.span[1]

    def parameters(self, points: np.ndarray) -> Tensor:
        """Those of the times nearest to points [steps] that can be trained."""
        lengths = np.abs(np.diff(points, append=self.end)) / abs(np.subtract(*self.sampler.span))
        logits = torch.from_numpy(np.log(lengths.clip(SMALLEST)))
        return torch.stack([logits, torch.zeros_like(logits)])

    def times(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Where the evaluations are, and what the network is given there: float64 [steps], with gradients."""
        first, end = self.sampler.span
        lengths = parameters[0].softmax(dim=0)
        points = first + (end - first) * (lengths.cumsum(dim=0) - lengths)
        room = abs(end - first) * torch.minimum(lengths[:-1], lengths[1:]) / 2
        given = points[1:] + room * parameters[1, 1:].tanh()
        return points, torch.cat([points[:1], given])

    def plain(self, parameters: Tensor) -> Times:
        """The same as a file has them."""
        points, given = self.times(parameters.detach().cpu())
        return Times(points.numpy(), given.numpy())

    def solver_at(self, points: np.ndarray) -> Solver:
        """The solver with its evaluations at points [steps]."""
        return self.sampler.solver_at(Times(points, points))

    def known(self, steps: int) -> dict[str, np.ndarray]:
        """Grids [steps] that are known: spread by powers; of a diffusion model even in the log SNR, too."""
        first, end = self.sampler.span
        shares = np.arange(steps) / steps
        grids = {f"power{power:g}": end + (first - end) * (1 - shares) ** power for power in POWERS}
        if self.sampler.objective == DIFFUSION:
            timesteps = np.arange(TRAINING_STEPS)[::-1]
            log_snr = NoiseSchedule.at(timesteps).log_snr
            for name, count in (("logsnr", steps), ("logsnr-open", steps + 1)):
                even = np.linspace(log_snr[0], log_snr[-1], count)[:steps]
                grids[name] = np.interp(even, log_snr, timesteps)
        # in them the first time is the noise's, but for rounding
        return {name: np.append(first, grid[1:]) for name, grid in grids.items()}


def ends_of(
    learned: LearnedTimes, generation: Generation, parameters: Tensor, keep: bool
) -> Callable[[Sequence[int]], Tensor]:
    """Where samples end with the solver at the parameters' times, by their indices; gradients flow to the parameters.

    keep: activations are kept for the gradient, instead of being computed again.
    """

    def ends(chosen: Sequence[int]) -> Tensor:
        labels, gaussian = generation.drawn(chosen)
        points, given = learned.times(parameters)
        noise = gaussian()
        table = differentiable(learned.solver_at, points, learned.end).to(noise.device)
        terms = [noise.double()]  # summed in their format: multiples of the noise and of the first estimate cancel

        def combined(row: Tensor) -> Tensor:
            return torch.stack([factor * term for factor, term in zip(row, terms, strict=False)]).sum(dim=0)

        def estimate(x: Tensor, given: Tensor, i: int) -> Tensor:
            return generation.denoiser(labels, None, given)(x, i)[:, : noise.shape[1]]

        for i in range(len(points)):
            x = combined(table[i]).to(noise.dtype)
            output = estimate(x, given, i) if keep else checkpoint(estimate, x, given, i, use_reentrant=False)
            terms.append(output.double())
        return combined(table[-1]).to(noise.dtype)

    return ends
