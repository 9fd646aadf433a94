"""The options of the group `sampler`, as typed settings: which solver takes noise to a sample.

What they mean is in goc/sampling, which is loaded only when a solver is made, since it needs torch and settings do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from goc.models.objective import DIFFUSION, FLOW, PIPELINE
from goc.models.plans import plan_sha256
from goc.sampling.noise import TRAINING_STEPS, NoiseSchedule
from goc.system.errors import ConfigError
from goc.system.lazy import LazyModule
from goc.system.registry import Options

if TYPE_CHECKING:
    from goc.sampling import flow, multistep, solvers, timesteps
    from goc.sampling.timesteps import Times
else:
    multistep, solvers = LazyModule("goc.sampling.multistep"), LazyModule("goc.sampling.solvers")
    flow, timesteps = LazyModule("goc.sampling.flow"), LazyModule("goc.sampling.timesteps")

ORDERS = (2, 3)
SPACINGS = ("linear", "logsnr")


@dataclass
class SamplerConfig:
    """Which solver, with its settings. title: its name in tables. reads: settings that name a file it is read from."""

    name: str = "ddim"
    title: ClassVar[str] = ""
    objective: ClassVar[str] = DIFFUSION
    deterministic: ClassVar[bool] = True
    evaluations_per_step: ClassVar[int] = 1
    fewest_steps: ClassVar[int] = 2
    reads: ClassVar[Mapping[str, str | None]] = {}

    def check(self) -> None:
        """Raise ConfigError on a setting that does not exist."""

    def check_steps(self, steps: int) -> None:
        """Raise ConfigError on a setting that cannot be run with so many steps."""

    def check_model(self, model: Mapping[str, Any]) -> None:
        """Raise ConfigError on a file that is of another model or guidance, by their names."""

    def with_paths(self, fill: Callable[[str], str]) -> SamplerConfig:
        """The same with its files' paths as `fill` makes them of ones with {model}, {steps}, ... in them."""
        return self

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


@dataclass
class TimedConfig(SamplerConfig):
    """A solver of one evaluation a step, which may be at any times.

    timesteps: a file with these, as goc train timesteps writes it; null: the solver's own. span: the times of noise and
    of data, between which they are.
    """

    reads: ClassVar[Mapping[str, str | None]] = {"timesteps": None}
    span: ClassVar[tuple[float, float]] = (TRAINING_STEPS - 1, 0.0)
    timesteps: str | None = None

    def with_paths(self, fill: Callable[[str], str]) -> SamplerConfig:
        return self if self.timesteps is None else replace(self, timesteps=fill(self.timesteps))

    def check_steps(self, steps: int) -> None:
        self.times(steps)

    def check_model(self, model: Mapping[str, Any]) -> None:
        if self.timesteps is not None:
            timesteps.check_trained_for(self.timesteps, model)

    def times(self, steps: int) -> Times | None:
        """What its file says; None: it has none. Raises ConfigError for one of another solver, or of other steps."""
        if self.timesteps is None:
            return None
        return timesteps.read_times(self.timesteps, plain(replace(self, timesteps=None)), self.span, steps)

    def solver(self, steps: int) -> solvers.Solver:
        times = self.times(steps)
        return self.usual_solver(steps) if times is None else self.solver_at(times)

    def usual_solver(self, steps: int) -> solvers.Solver:
        """The solver with so many steps of its own."""
        raise NotImplementedError

    def solver_at(self, times: Times) -> solvers.Solver:
        """The solver with its evaluations at these times."""
        raise NotImplementedError

    def kind(self) -> str:
        return self.title if self.timesteps is None else f"{self.title}(learned)"


@dataclass
class DiffusionConfig(TimedConfig):
    """A solver that takes the noise levels and timesteps of its steps from a schedule."""

    def usual_solver(self, steps: int) -> solvers.Solver:
        return self.on(self.schedule(steps))

    def solver_at(self, times: Times) -> solvers.Solver:
        return self.on(NoiseSchedule.between(times.points, times.given))

    def schedule(self, steps: int) -> NoiseSchedule:
        """The noise levels and timesteps of its own steps."""
        return NoiseSchedule.respaced(steps)

    def on(self, schedule: NoiseSchedule) -> solvers.Solver:
        """The solver on a schedule."""
        raise NotImplementedError


@SAMPLERS.register
@dataclass
class DDIMConfig(DiffusionConfig):
    """DDIM, eta = 0."""

    title: ClassVar[str] = "DDIM"

    def on(self, schedule: NoiseSchedule) -> solvers.Solver:
        return solvers.DDIM(schedule)


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
class MultistepConfig(DiffusionConfig):
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
        if self.timesteps is not None and self.spacing != MultistepConfig.spacing:
            raise ConfigError(
                f"sampler.spacing={self.spacing}: must be {MultistepConfig.spacing} with sampler.timesteps, which say "
                "where all steps are"
            )

    def schedule(self, steps: int) -> NoiseSchedule:
        return multistep.even_in_log_snr(steps) if self.spacing == "logsnr" else NoiseSchedule.respaced(steps)

    def kind(self) -> str:
        if self.timesteps is not None:
            return f"{self.title}{self.order}(learned)"
        return f"{self.title}{self.order}" + ("(logsnr)" if self.spacing == "logsnr" else "")


@SAMPLERS.register
@dataclass
class DPMSolverConfig(MultistepConfig):
    """DPM-Solver++(2M), (3M)."""

    name: str = "dpm_solver"
    title: ClassVar[str] = "DPM-Solver"

    def on(self, schedule: NoiseSchedule) -> solvers.Solver:
        return multistep.dpm_solver(schedule, self.order)


@SAMPLERS.register
@dataclass
class UniPCConfig(MultistepConfig):
    """UniPC."""

    name: str = "unipc"
    title: ClassVar[str] = "UniPC"

    def on(self, schedule: NoiseSchedule) -> solvers.Solver:
        return multistep.unipc(schedule, self.order)


@dataclass
class FlowConfig(SamplerConfig):
    """A fixed-step method for flow matching."""

    objective: ClassVar[str] = FLOW
    fewest_steps: ClassVar[int] = 1


@SAMPLERS.register
@dataclass
class EulerConfig(FlowConfig, TimedConfig):
    """Euler's method, one evaluation a step."""

    name: str = "euler"
    title: ClassVar[str] = "Euler"
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def usual_solver(self, steps: int) -> solvers.Solver:
        return solvers.Euler(steps)

    def solver_at(self, times: Times) -> solvers.Solver:
        return solvers.Euler(flow.FlowTimes(times.given, len(times.given), times.points))


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
    """A sampler as result.json holds it: its name, with its settings if it has any; a file's only if it names one."""
    settings = {key: value for key, value in asdict(sampler).items() if key not in sampler.reads or value is not None}
    return settings if len(settings) > 1 else sampler.name


def keyed(sampler: SamplerConfig) -> str | dict[str, Any]:
    """What trajectories depend on of a sampler: as `plain`, with its files' SHA-256 in place of their paths."""
    settings = plain(sampler)
    if isinstance(settings, str):
        return settings
    return {key: plan_sha256(value) if key in sampler.reads else value for key, value in settings.items()}


def kind_of(sampler: str | Mapping[str, Any]) -> str:
    """How tables name a sampler that `plain` gave; also one that this version does not know."""
    settings = {"name": sampler} if isinstance(sampler, str) else dict(sampler)
    try:
        return SAMPLERS[settings["name"]](**settings).kind()
    except (KeyError, TypeError, ValueError):
        return str(settings.get("name"))
