"""The noise schedule of training and its respacing to T sampling steps.

The published caching results depend on these exact formulas (Nichol & Dhariwal, arXiv 2102.09672, as used by DiT);
step i = 0 is the noisiest, i = T - 1 the last.
"""

from dataclasses import dataclass

import numpy as np

TRAINING_STEPS = 1000


def linear_betas() -> np.ndarray:
    """The 1000 training betas, linear from 1e-4 to 2e-2, float64 [1000]."""
    return np.linspace(1e-4, 2e-2, TRAINING_STEPS, dtype=np.float64)


@dataclass(frozen=True)
class NoiseSchedule:
    """A respaced schedule of T steps; every array is float64 [T], indexed by sampling step i (0 = noisiest)."""

    timesteps: np.ndarray  # the training timestep that the network is given in each step, int64; float64 of `between`
    alphas_cumprod: np.ndarray  # alpha-bar at the step
    alphas_cumprod_prev: np.ndarray  # alpha-bar after the update (1 after the last)

    @classmethod
    def respaced(cls, steps: int) -> "NoiseSchedule":
        """T steps at training timesteps round(j * 999 / (T-1)), j = 0..T-1; raises ValueError outside 2..1000."""
        if not 2 <= steps <= TRAINING_STEPS:
            raise ValueError(f"steps={steps}: must be in [2, {TRAINING_STEPS}]")
        return cls.at(np.array([round(j * (TRAINING_STEPS - 1) / (steps - 1)) for j in range(steps)])[::-1])

    @classmethod
    def at(cls, timesteps: np.ndarray) -> "NoiseSchedule":
        """A schedule of these training timesteps, int64 [T], falling."""
        alphas_cumprod = np.cumprod(1.0 - linear_betas())[timesteps]
        return cls(timesteps.copy(), alphas_cumprod, np.append(alphas_cumprod[1:], 1.0))

    @classmethod
    def between(cls, times: np.ndarray, given: np.ndarray) -> "NoiseSchedule":
        """A schedule at training timesteps that need not be whole: float64 [T], falling, in [0, 999].

        Between two whole ones the log signal-to-noise ratio is linear in the timestep. given: what the network is given
        as the timestep, float64 [T].
        """
        trained = np.cumprod(1.0 - linear_betas())
        log_snr = np.interp(times, np.arange(TRAINING_STEPS), np.log(trained / (1.0 - trained)))
        nearest = np.rint(times).astype(np.int64)
        alphas_cumprod = np.where(times == nearest, trained[nearest], 1.0 / (1.0 + np.exp(-log_snr)))
        return cls(given.copy(), alphas_cumprod, np.append(alphas_cumprod[1:], 1.0))

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def times(self) -> np.ndarray:
        """What the network is given in each evaluation: here the timesteps, one a step."""
        return self.timesteps

    @property
    def sigmas(self) -> np.ndarray:
        """Standard deviation of the noise, in units of the signal: sqrt((1 - alpha-bar) / alpha-bar)."""
        return np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)

    @property
    def log_snr(self) -> np.ndarray:
        """Logarithm of the signal-to-noise ratio, 0.5 ln(alpha-bar / (1 - alpha-bar)); grows from step to step."""
        return 0.5 * np.log(self.alphas_cumprod / (1.0 - self.alphas_cumprod))

    @property
    def betas(self) -> np.ndarray:
        """Variance added between this step's noise level and the next one's."""
        return 1.0 - self.alphas_cumprod / self.alphas_cumprod_prev

    @property
    def posterior_variance(self) -> np.ndarray:
        """Variance of q(x_{t-1} | x_t, x_0); zero at the last step."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @property
    def posterior_log_variance(self) -> np.ndarray:
        """Its logarithm, with the zero of the last step replaced by the step before it."""
        variance = self.posterior_variance
        return np.log(np.append(variance[:-1], variance[-2]))
