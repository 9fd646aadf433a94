"""Train the times of a solver's evaluations for a model, a solver and a number of steps, end to end.

    goc train timesteps steps=5 sampler=unipc      (minutes on 2 cores; settings as run.py's, --help for its own)
    python run.py method=none steps=5 sampler=unipc sampler.timesteps=outputs/timesteps/digits-unipc5-cfg1.json

As LD3 does it (Tong et al., arXiv 2405.15506): the solver's first time is the noise's and its last step ends at the
data; all times between are learned, the last evaluation's among them, and what the network is given as its time there
may differ from it by up to half the way to the next one. Samples of the calibration seed are taken through the whole
solver, and the loss is the mean over samples of |x - x*| / |x*|, where x* is where the same sample ends with the
converged solution (--target converged: what distances of ways are measured to), or with the same solver and so many
steps of its own (--target 20: what a cache on it is trained towards). Training begins with the known grid that ends
closest on some of the samples. The times that are written are those of whatever ends closest on the samples that come
after the training's: the solver's own, the known grid's, or the trained ones. Times of a diffusion model need not be
whole timesteps: between two of them the log signal-to-noise ratio is linear.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from goc.config import Config, Way, compose_config, validate
from goc.config.validation import check_full_guidance, fill
from goc.runs.denoiser import configured_calibration, trained_for
from goc.sampling.calibrate import Calibration
from goc.sampling.noise import TRAINING_STEPS
from goc.sampling.options import SAMPLERS, TimedConfig, plain
from goc.sampling.search import final_latents, mean_distance
from goc.sampling.timesteps import Times, write_times
from goc.sampling.training import DONE, progress_of
from goc.system.arguments import check_numbers, check_out, command_parser
from goc.system.errors import ConfigError, memory_for
from goc.system.files import room_for
from goc.train.grids import LearnedTimes, ends_of
from goc.train.learning import descend
from goc.train.targets import CONVERGED, converged_targets
from goc.train.weights import LEAST, add_options

OWN_TIMES = "outputs/timesteps/{model}-{sampler}{steps}-cfg{cfg_scale}.json"
OWN, TRAINED = "own", "trained"  # the solver's own times, the trained ones
SEEN = 64  # samples that known grids are compared on


def main() -> int:
    """Train times for run.py's settings and write them; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("settings", nargs="*", help="run.py's: model, sampler, steps, cfg_scale, ...")
    add_options(parser)
    parser.add_argument(
        "--target", default=CONVERGED, help="converged, or so many steps of the same solver (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, help=f"default: {OWN_TIMES}")
    parser.set_defaults(rate=0.05)
    args = parser.parse_intermixed_args()
    started = time.perf_counter()
    check_numbers(args, LEAST)
    if args.out is not None:
        check_out(args.out)
    config = compose_config(["method=none", *args.settings])
    validate(config)
    way, measurement = config.way, config.measurement
    learned, finer = LearnedTimes(sampler_of(way)), steps_of(args.target, way)
    calibration = replace(configured_calibration(config), samples=args.samples)
    device = calibration.generation.device
    targets = targets_of(config, calibration, args.samples + args.held, learned.sampler, finer).to(device)

    def distances(each: Mapping[str, Times], indices: range) -> dict[str, float]:
        return {
            name: distance_of(learned.sampler, times, calibration, indices, targets) for name, times in each.items()
        }

    usual = usual_times(learned.sampler, way.steps)
    known = {OWN: usual, **{name: Times(points, points) for name, points in learned.known(way.steps).items()}}
    begun = closest(distances(known, range(min(SEEN, args.samples))))
    parameters = learned.parameters(known[begun].points).to(device).requires_grad_()
    training = {name: getattr(args, name) for name in ("iterations", "batch", "samples", "held", "rate", "target")}
    training |= {"seed": calibration.seed, "start": begun}
    depends_on = {**calibration.key, **training, "timesteps": parameters.tolist(), "device": str(device)}
    out = args.out or Path(fill(OWN_TIMES, way, measurement.model.name, measurement.cfg_scale))
    with progress_of(calibration.cache_dir, depends_on) as progress, memory_for(f"--batch={args.batch}"):
        ends = ends_of(learned, calibration.seeded(), parameters, args.keep)
        losses = descend(
            parameters, ends, targets, calibration, args.iterations, args.batch, args.rate, "times", progress
        )
        each, kept = {OWN: usual, begun: known[begun], TRAINED: learned.plain(parameters)}, TRAINED
        if args.held:
            apart = distances(each, range(args.samples, args.samples + args.held))
            training["held_distances"], kept = apart, closest(apart)
        made_for = {**trained_for(measurement, calibration.key["weights"]), "sampler": plain(learned.sampler)}
        with room_for(out, DONE):
            write_times(out, each[kept], trained_for=made_for, training={**training, "kept": kept})
    passed = time.perf_counter() - started
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    said = ", ".join(f"{name} {distance:.4f}" for name, distance in training.get("held_distances", {}).items())
    said = f"; of samples apart {said}: {kept}" if said else ""
    print(f"distance to the target {first:.4f} -> {last:.4f}{said}; in {passed:.0f} s: {out}")
    return 0


def sampler_of(way: Way) -> TimedConfig:
    """The sampler whose times are trained; raises ConfigError for a way that they cannot be trained of."""
    sampler = way.sampler
    if not isinstance(sampler, TimedConfig):
        timed = ", ".join(name for name, option in SAMPLERS.items() if issubclass(option, TimedConfig))
        raise ConfigError(f"sampler={sampler.name}: must be one of {timed}, which may be at any times")
    if sampler.timesteps is not None:
        raise ConfigError(f"sampler.timesteps={sampler.timesteps}: must be null here, where times are trained")
    replace(sampler, timesteps=OWN_TIMES).check()
    if way.schedule.caches():
        raise ConfigError(f"schedule={way.schedule.name}: must be none here, as times are trained without a cache")
    check_full_guidance(way)
    return sampler


def steps_of(target: str, way: Way) -> int | None:
    """How many steps of the same solver are the target; None: the converged solution. Raises ConfigError."""
    if target == CONVERGED:
        return None
    if not target.isdecimal() or not way.steps < int(target) <= TRAINING_STEPS:
        raise ConfigError(
            f"--target={target}: must be {CONVERGED}, or more steps than steps={way.steps}, at most {TRAINING_STEPS}"
        )
    return int(target)


def targets_of(config: Config, calibration: Calibration, count: int, sampler: TimedConfig, steps: int | None) -> Tensor:
    """Where the calibration's first samples should end, [count, C, H, W]: converged, or with more steps."""
    if steps is None:
        return converged_targets(config, calibration, count)
    generation = replace(calibration.generation, solver=sampler.usual_solver(steps))
    return final_latents(replace(calibration, generation=generation), None, range(count)).clone()


def usual_times(sampler: TimedConfig, steps: int) -> Times:
    """The solver's own times."""
    points = np.asarray(sampler.usual_solver(steps).grid.times, dtype=np.float64)
    return Times(points, points)


def distance_of(sampler: TimedConfig, times: Times, calibration: Calibration, indices: range, targets: Tensor) -> float:
    """Mean relative distance of the samples with these indices to their targets, with the solver at these times."""
    generation = replace(calibration.generation, solver=sampler.solver_at(times))
    ends = final_latents(replace(calibration, generation=generation), None, indices)
    distance = mean_distance(ends, targets[indices.start : indices.stop]).item()
    return distance if math.isfinite(distance) else math.inf


def closest(distances: Mapping[str, float]) -> str:
    """The name of the smallest distance; of equals the first."""
    return min(distances, key=lambda name: distances[name])
