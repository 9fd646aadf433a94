"""The options of the group `sampler`, as typed settings: which solver takes noise to a sample.

What they mean is in goc/sampling, which is loaded only when a solver is made, since it needs torch and settings do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from goc.models.objective import DIFFUSION, FLOW, PIPELINE
from goc.sampling.noise import NoiseSchedule
from goc.system.errors import ConfigError
from goc.system.lazy import LazyModule
from goc.system.registry import Options

if TYPE_CHECKING:
    from goc.sampling import multistep, solvers
else:
    multistep, solvers = LazyModule("goc.sampling.multistep"), LazyModule("goc.sampling.solvers")

ORDERS = (2, 3)
SPACINGS = ("linear", "logsnr")


@dataclass
class SamplerConfig:
    """Which solver, with its settings. title: its name in tables."""

    name: str = "ddim"
    title: ClassVar[str] = ""
    objective: ClassVar[str] = DIFFUSION
    deterministic: ClassVar[bool] = True
    evaluations_per_step: ClassVar[int] = 1
    fewest_steps: ClassVar[int] = 2

    def check(self) -> None:
        """Raise ConfigError on a setting that does not exist."""

    def solver(self, steps: int) -> solvers.Solver:
        """The solver with so many steps."""
        raise NotImplementedError

    def kind(self) -> str:
        """The solver without its steps, as tables name it."""
        return self.title

    def label(self, steps: int) -> str:
        """The solver with its steps, as tables name it."""
        return f"{self.kind()}-{steps}"


SAMPLERS: Options[SamplerConfig] = Options("sampler")


@SAMPLERS.register
@dataclass
class DDIMConfig(SamplerConfig):
    """DDIM, eta = 0."""

    title: ClassVar[str] = "DDIM"

    def solver(self, steps: int) -> solvers.Solver:
        return solvers.DDIM(NoiseSchedule.respaced(steps))


@SAMPLERS.register
@dataclass
class DDPMConfig(SamplerConfig):
    """DDPM with learned variance."""

    name: str = "ddpm"
    title: ClassVar[str] = "DDPM"
    deterministic: ClassVar[bool] = False

    def solver(self, steps: int) -> solvers.Solver:
        return solvers.DDPM(NoiseSchedule.respaced(steps))


@dataclass
class MultistepConfig(SamplerConfig):
    """A multistep solver: one evaluation a step, whatever its order.

    order: 2 or 3. spacing: of its steps, linear in the timestep as DDIM's, or even in logsnr.
    """

    order: int = 2
    spacing: str = "linear"

    def check(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"sampler.order={self.order}: must be one of {', '.join(map(str, ORDERS))}")
        if self.spacing not in SPACINGS:
            raise ConfigError(f"sampler.spacing={self.spacing}: must be one of {', '.join(SPACINGS)}")

    def schedule(self, steps: int) -> NoiseSchedule:
        """The noise levels and timesteps of its steps."""
        return multistep.even_in_log_snr(steps) if self.spacing == "logsnr" else NoiseSchedule.respaced(steps)

    def kind(self) -> str:
        return f"{self.title}{self.order}" + ("(logsnr)" if self.spacing == "logsnr" else "")


@SAMPLERS.register
@dataclass
class DPMSolverConfig(MultistepConfig):
    """DPM-Solver++(2M), (3M)."""

    name: str = "dpm_solver"
    title: ClassVar[str] = "DPM-Solver"

    def solver(self, steps: int) -> solvers.Solver:
        return multistep.dpm_solver(self.schedule(steps), self.order)


@SAMPLERS.register
@dataclass
class UniPCConfig(MultistepConfig):
    """UniPC."""

    name: str = "unipc"
    title: ClassVar[str] = "UniPC"

    def solver(self, steps: int) -> solvers.Solver:
        return multistep.unipc(self.schedule(steps), self.order)


@dataclass
class FlowConfig(SamplerConfig):
    """A fixed-step method for flow matching."""

    objective: ClassVar[str] = FLOW
    fewest_steps: ClassVar[int] = 1


@SAMPLERS.register
@dataclass
class EulerConfig(FlowConfig):
    """Euler's method, one evaluation a step."""

    name: str = "euler"
    title: ClassVar[str] = "Euler"

    def solver(self, steps: int) -> solvers.Solver:
        return solvers.Euler(steps)


@SAMPLERS.register
@dataclass
class HeunConfig(FlowConfig):
    """Heun's method, two evaluations a step."""

    name: str = "heun"
    title: ClassVar[str] = "Heun"
    evaluations_per_step: ClassVar[int] = 2

    def solver(self, steps: int) -> solvers.Solver:
        return solvers.Heun(steps)


@SAMPLERS.register
@dataclass
class MidpointConfig(FlowConfig):
    """The midpoint method, two evaluations a step."""

    name: str = "midpoint"
    title: ClassVar[str] = "Midpoint"
    evaluations_per_step: ClassVar[int] = 2

    def solver(self, steps: int) -> solvers.Solver:
        return solvers.Midpoint(steps)


@SAMPLERS.register
@dataclass
class SchedulerConfig(SamplerConfig):
    """A pipeline's own scheduler, as its folder has it."""

    name: str = "scheduler"
    title: ClassVar[str] = "scheduler"
    objective: ClassVar[str] = PIPELINE
    deterministic: ClassVar[bool] = False  # it may draw noise in each step: nothing is known of it
    fewest_steps: ClassVar[int] = 1


def fitting(objective: str) -> list[str]:
    """Names of the samplers for a training objective."""
    return [name for name, cls in SAMPLERS.items() if cls.objective == objective]


def plain(sampler: SamplerConfig) -> str | dict[str, Any]:
    """A sampler as result.json holds it: its name, with its settings if it has any."""
    settings = asdict(sampler)
    return settings if len(settings) > 1 else sampler.name


def kind_of(sampler: str | Mapping[str, Any]) -> str:
    """How tables name a sampler that `plain` gave; also one that this version does not know."""
    settings = {"name": sampler} if isinstance(sampler, str) else dict(sampler)
    try:
        return SAMPLERS[settings["name"]](**settings).kind()
    except (KeyError, TypeError, ValueError):
        return str(settings.get("name"))
