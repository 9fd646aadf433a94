"""Find schedules and weights for several numbers of network evaluations at once: a front, in one file.

    goc train front model=digits steps=20 --evaluations 4,5,7,10     (settings as run.py's, --help for its own)
    python run.py -m method=front cache_ratio=0.5,0.65,0.75,0.8

For each number, from the smallest on, a schedule is searched as schedule=halving does, from all that are known
and from those that were found for fewer evaluations. On the closest ones the weights of each cell and the times that
the network is given are trained for a while (goc/train/fitting.py), from the known linear predictor that ends closest
on each; the one that is closest then is trained to its end. With --turns N the schedules around that one, with one
computed step elsewhere, come first: those whose known predictors end closest are trained for a while as well, and so on
around the closest, at most N times. Whatever ends closest on samples apart, that no training has seen, is written: the
known predictor, or the trained weights. --begin names another front, say of another guidance: the searches begin with
its schedules, and the trainings may with its weights. --target converged: the weights are trained towards the converged
solution, so that a sample may end closer to that than without a cache. How many evaluations of the denoiser that will
take is said at the beginning, and how many it took at the end. A front that is stopped goes on where it was.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from goc.config import Config, compose_config, validate
from goc.config.validation import fill
from goc.models.plans import OWN_FRONT, as_text
from goc.models.schedules import FRONT, Trained, read_front, rows_of, shifts_of, trained_of
from goc.planning.halved import at_count, halved, schedule_of
from goc.planning.plan import Plan
from goc.runs.denoiser import configured_calibration
from goc.sampling.calibrate import Calibration
from goc.sampling.local_search import Steps, neighbours
from goc.sampling.search import final_latents
from goc.sampling.shared import shared_tensors
from goc.sampling.training import DONE, progress_of
from goc.system.arguments import check_numbers, check_out, command_parser
from goc.system.errors import ConfigError, memory_for
from goc.system.files import room_for, write_text
from goc.train.effort import Effort
from goc.train.fitting import fit
from goc.train.learning import better
from goc.train.starts import Start, best_start, distance_of
from goc.train.targets import CONVERGED, UNCACHED, converged_targets
from goc.train.weights import LEAST, add_options, check_way

FEWEST = 3  # computed evaluations
KIND = "front-weights"


class Contender(NamedTuple):
    """A schedule among others, of which the closest is the smallest.

    distance: with what was trained from its start; that of the start, where nothing was.
    """

    distance: float
    computed: Steps
    start: Start
    trained: Trained


@dataclass(frozen=True)
class Maker:
    """Makes a front's entries.

    targets: where the calibration's samples and those held apart are to end. begun: another front's entries.
    """

    config: Config
    calibration: Calibration
    effort: Effort
    targets: Tensor
    begun: dict[int, dict[str, Any]]

    @property
    def steps(self) -> int:
        return self.config.way.num_evaluations

    def plan(self, computed: Steps) -> Plan:
        model = self.config.measurement.model
        return at_count(self.config.way, model, self.calibration, len(computed)).computing(computed)

    def begun_with(self, computed: Steps) -> dict[str, Trained]:
        """What the other front has for a schedule."""
        entry = self.begun.get(len(computed), {})
        if tuple(entry.get("computed", ())) != computed:
            return {}
        _, *cells = self.plan(computed).mask.shape
        return {"begun": trained_of(entry, self.steps, (cells[0], cells[1]), "--begin")}

    def trained(self, computed: Steps, begin: Trained, iterations: int) -> Trained:
        """What is trained for a schedule from what there is; from disk if it was before."""
        effort, plan = self.effort, self.plan(computed)
        samples = replace(self.calibration, samples=effort.samples)
        key = {
            **self.calibration.key, "seed": self.calibration.seed, "samples": effort.samples, "site": plan.site,
            "computed": computed, "begin": [None if part is None else part.tolist() for part in begin],
            "iterations": iterations, "batch": effort.batch,
            "rate": effort.rate, "target": effort.target, "device": str(self.calibration.generation.device),
            "torch": torch.__version__,
        }  # fmt: skip

        def make() -> dict[str, Tensor]:
            with progress_of(self.calibration.cache_dir, key) as progress:
                (weights, shifts), losses = fit(
                    plan, samples, begin, iterations, effort.batch, effort.rate, effort.keep, progress,
                    self.targets[: effort.samples],
                )  # fmt: skip
                assert shifts is not None
                return {"weights": weights, "shifts": shifts, "losses": torch.tensor(losses)}

        with memory_for(f"--batch={effort.batch}"):
            made = shared_tensors(self.calibration.cache_dir, KIND, key, {"weights", "shifts", "losses"}, make)
        return Trained(made["weights"], made["shifts"])

    def start(self, computed: Steps) -> Start:
        """What the training on a schedule starts from."""
        log_snr = self.calibration.generation.solver.grid.log_snr.tolist()
        few = self.targets[: len(self.effort.seen_of_starts)]
        return best_start(self.plan(computed), self.calibration, few, log_snr, self.begun_with(computed))

    def contender(self, computed: Steps, start: Start) -> Contender:
        """A schedule after a short training."""
        trained, seen = self.trained(computed, start.trained, self.effort.short), self.effort.seen
        distance = distance_of(self.plan(computed), trained, self.calibration, seen, self.targets[: len(seen)])
        return Contender(distance, computed, start, trained)

    def compared(self, schedules: Sequence[Steps]) -> tuple[list[Contender], int]:
        """These schedules and, by turns, the closest around the closest; and of how many a start was looked for."""
        starts = {computed: self.start(computed) for computed in schedules}
        found = [self.contender(computed, start) for computed, start in starts.items()]
        for _ in range(self.effort.turns):
            best, known = min(found), {one.computed for one in found}
            around = [computed for computed in neighbours(best.computed, self.steps) if computed not in known]
            starts |= {computed: self.start(computed) for computed in around if computed not in starts}
            around.sort(key=lambda computed: (starts[computed].distance, computed))
            found += [self.contender(computed, starts[computed]) for computed in around[: self.effort.rivals]]
            if min(found) is best:
                break
        return found, len(starts)

    def entry(self, count: int, others: Sequence[Steps]) -> dict[str, Any]:
        """What a front says of one number of evaluations."""
        effort = self.effort
        first = [tuple(self.begun[count]["computed"])] if count in self.begun else []
        search = halved(self.config.way, self.config.measurement.model, self.calibration, count, others, first)
        closest = [tuple(search["computed"]), *(tuple(schedule) for schedule, _ in search["rivals"])][: effort.rivals]
        if effort.compares(len(closest)):
            contenders, started = self.compared(closest)
            best = min(contenders)
        else:
            contenders, started, alone = [], 1, self.start(closest[0])
            best = Contender(alone.distance, closest[0], alone, alone.trained)
        plan, start = self.plan(best.computed), best.start
        each = [start.trained]
        if effort.iterations:
            each.append(self.trained(best.computed, best.trained, effort.iterations))
        held = range(effort.samples, effort.samples + effort.held)
        chosen, distances = len(each) - 1, list[float]()
        if held:
            chosen, distances = better(plan, self.calibration, held, self.targets[effort.samples :], each)
        share = effort.weights(self.steps, count, started, len(contenders))
        return {
            "computed": list(best.computed),
            "weights": rows_of(each[chosen].weights, best.computed),
            "shifts": shifts_of(each[chosen].shifts, best.computed),
            "search_distance": search["distance"],
            "start": start.name,
            "held_distances": distances,  # of the start, of the trained weights
            "kept": ("start", "trained")[chosen],
            "compared": [[list(one.computed), one.distance] for one in contenders],
            "searched": search["computed"],
            "begun_with": search["begun_with"],
            "denoiser_evaluations": search["denoiser_evaluations"] - search["searched"]["spent"] + share,
        }


def main() -> int:
    """Find a front for run.py's settings and write it; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "settings", nargs="*", help="run.py's: model, sampler, steps, cfg_scale, schedule.search_samples, ..."
    )
    parser.add_argument(
        "--evaluations", default="4,5,7,10", help=f"computed ones, each at least {FEWEST} (default %(default)s)"
    )
    add_options(parser)
    parser.add_argument(
        "--rivals", type=int, default=3, help="schedules that are compared after a short training (default %(default)s)"
    )
    parser.add_argument(
        "--turns", type=int, default=0,
        help="times that schedules around the closest one are compared, too, as many (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--begin", type=Path, help="another front, whose schedules and weights it begins with, too")
    parser.add_argument(
        "--target", choices=(UNCACHED, CONVERGED), default=UNCACHED,
        help="what weights are trained towards: the same sampler without a cache (default), or the converged solution",
    )  # fmt: skip
    parser.add_argument("--estimate", action="store_true", help="say what it will take, and do nothing")
    parser.add_argument("--out", type=Path, help=f"default: {OWN_FRONT}")
    parser.set_defaults(iterations=60, rate=0.01)
    args = parser.parse_intermixed_args()
    started = time.perf_counter()
    # no iterations: known predictors alone, and --begin's weights
    check_numbers(args, {**LEAST, "iterations": 0, "rivals": 1, "turns": 0})
    if args.out is not None:
        check_out(args.out)
    config = compose_config(["method=halving", *args.settings])
    validate(config)
    check_way(config.way)
    steps = config.way.num_evaluations
    counts = numbers(args.evaluations, steps)
    effort = effort_of(args, config)
    begun = {} if args.begin is None else read_front(str(args.begin), steps, "--begin")
    objective = config.measurement.model.objective
    estimated = effort.estimate(steps, counts, config.way.calibration_samples, objective)
    guided = " (each guided: two of the network)" if config.measurement.cfg_scale != 1 else ""
    print(f"{len(counts)} schedules of {steps} evaluations: at most {estimated:,} of the denoiser{guided}", flush=True)
    if args.estimate:
        return 0
    out = args.out or Path(fill(OWN_FRONT, config.way, config.measurement.model.name, config.measurement.cfg_scale))
    maker = maker_of(config, effort, begun)
    front, schedules = dict[str, Any](), list[Steps]()
    for count in counts:
        front[str(count)] = entry = maker.entry(count, schedules)
        schedules.append(tuple(entry["searched"]))
        print(line_of(count, entry), flush=True)
    for note in notes(front):
        print(note)
    spent = config.way.calibration_samples * steps + effort.targets(steps, objective)
    took = spent + sum(entry["denoiser_evaluations"] for entry in front.values())
    with room_for(out, DONE):
        write_text(out, as_text(content(maker, front, estimated, took)))
    passed = time.perf_counter() - started
    paid = ", ".join(f"{count}: {math.ceil(took / (steps - count)):,}" for count in counts)
    print(f"{took:,} evaluations ({estimated:,} estimated) in {passed:.0f} s: {out}")
    print(f"paid for, beside no cache, after so many images at one of its numbers of evaluations: {paid}")
    return 0


def numbers(text: str, steps: int) -> list[int]:
    """The numbers of evaluations in a text such as 4,5,7,10, rising; raises ConfigError."""
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or not FEWEST <= counts[0] <= counts[-1] < steps:
        raise ConfigError(f"--evaluations={text}: must be whole numbers in [{FEWEST}, {steps - 1}], as 4,5,7,10")
    return counts


def effort_of(args: argparse.Namespace, config: Config) -> Effort:
    """What the command's options and the settings of the search ask for; raises ConfigError for another schedule."""
    schedule = schedule_of(config.way)
    return Effort(
        args.iterations, args.batch, args.samples, args.held, args.rate, args.rivals, args.turns,
        args.keep, args.target, schedule.search_evaluations, schedule.search_samples,
    )  # fmt: skip


def maker_of(config: Config, effort: Effort, begun: dict[int, dict[str, Any]]) -> Maker:
    """What a front's entries are made with: the model loaded, and made what its samples are trained towards."""
    calibration = configured_calibration(config)
    count = effort.samples + effort.held
    if effort.target == CONVERGED:
        targets = converged_targets(config, calibration, count)
    else:
        targets = final_latents(calibration, None, range(count))
    return Maker(config, calibration, effort, targets.clone(), begun)


def line_of(count: int, entry: dict[str, Any]) -> str:
    """What is printed of an entry."""
    line = f"{count}: {','.join(map(str, entry['computed']))}, {entry['search_distance']:.4f} as searched"
    if entry["held_distances"]:
        first, *last = entry["held_distances"]
        line += f"; of samples apart {first:.4f} ({entry['start']})"
        line += "".join(f" -> {distance:.4f} (trained)" for distance in last)
    return line + (": the start is kept" if entry["kept"] == "start" else "")


def notes(front: dict[str, Any]) -> Iterator[str]:
    """A line for each number of evaluations with which samples apart end farther than with fewer."""
    ends = {count: min(entry["held_distances"], default=math.nan) for count, entry in front.items()}
    for fewer, more in pairwise(ends):
        if ends[fewer] < ends[more]:
            said = f"{more} evaluations end farther than {fewer} on samples apart"
            yield f"note: {said}: --rivals and --turns look further"


def content(maker: Maker, front: dict[str, Any], estimated: int, took: int) -> dict[str, Any]:
    """A front's file."""
    way, effort, calibration = maker.config.way, asdict(maker.effort), maker.calibration
    measurements = at_count(way, maker.config.measurement.model, calibration, FEWEST).measurements
    training = {
        name: effort[name] for name in ("iterations", "batch", "samples", "held", "rate", "rivals", "turns", "target")
    }
    searched = {"samples": effort["search_samples"], "schedules": effort["search_evaluations"]}
    return {
        "evaluations": way.num_evaluations,
        "trained_for": measurements.trained_for(),
        "searched": {"seed": calibration.seed, **searched, "predictor": asdict(way.predictor)},
        "training": {"seed": calibration.seed, **training},
        "denoiser_evaluations": took,
        "estimated": estimated,
        FRONT: front,
    }
