"""Train the weights of predictor=learned for a model, a sampler and a schedule.

    goc train weights cache_ratio=0.75      (minutes on 2 cores; settings as run.py's, --help for its own)
    python run.py method=searched_learned cache_ratio=0.75 predictor.path=outputs/weights/digits-ddim20-5-cfg1.json

For each cached step there are weights on the last computed features, the same for all cells. They start as what the
settings' predictor does (predictor=taylor, or the gradient queue between computed features; --start best: as the known
linear predictor that ends closest on this schedule), and are trained end to end: the samples of the calibration seeds
are taken through the whole sampler with the cache, and the loss is the mean over samples of |x - x*| / |x*|, where x*
is where the same sample ends without a cache. The denoiser's weights do not change. Activations are computed again when
gradients are (checkpointing), one evaluation at a time. The weights that are written are those of the start where these
end closer on the samples that come after the training's.
"""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path

from goc.caching.schedule import computed_steps_of
from goc.config import Way, compose_config, validate
from goc.config.validation import TRAINED_WEIGHTS, check_full_guidance, fill
from goc.models.schedules import Trained, rows_of, write_schedule
from goc.planning.denoiser import make_plan, planner_of
from goc.runs.denoiser import configured_calibration
from goc.sampling.search import final_latents
from goc.sampling.training import DONE, progress_of
from goc.system.arguments import check_numbers, check_out, command_parser
from goc.system.errors import ConfigError, memory_for
from goc.system.files import room_for
from goc.train.learning import better, train
from goc.train.starts import LENGTH, best_start, start

OWN, BEST = "own", "best"


def main() -> int:
    """Train weights for run.py's settings and write them; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "settings", nargs="*", help="run.py's: model, sampler, steps, cache_ratio, cfg_scale, schedule, ..."
    )
    add_options(parser)
    parser.add_argument(
        "--start", choices=(OWN, BEST), default=OWN, help="of the weights: the settings' predictor, or the best known"
    )
    parser.add_argument("--out", type=Path, help=f"default: {TRAINED_WEIGHTS}")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("iterations", "batch", "samples", "rate")}
    started = time.perf_counter()
    check_numbers(args, LEAST)
    if args.out is not None:
        check_out(args.out)
    config = compose_config(["method=searched", *args.settings])
    validate(config)
    way, measurement = config.way, config.measurement
    check_way(way)
    calibration = configured_calibration(config)
    plan = make_plan(way, measurement.model, calibration)
    calibration = replace(calibration, samples=args.samples)
    trained_for = planner_of(way, measurement.model, calibration).measurements.trained_for()
    computed = tuple(computed_steps_of(plan.mask))
    out = args.out or Path(fill(TRAINED_WEIGHTS, way, measurement.model.name, measurement.cfg_scale, len(computed)))
    begin, name = start(plan, LENGTH), asdict(way.predictor)
    if args.start == BEST:
        seen = min(way.schedule.searched_samples() or args.samples, args.samples)
        log_snr = calibration.generation.solver.grid.log_snr.tolist()
        targets = final_latents(calibration, None, range(seen))
        best = best_start(plan, calibration, targets, log_snr)
        begin, name = best.trained.weights, {"name": best.name}
    training = {**settings, "seed": calibration.seed, "start": name}
    depends_on = {
        **calibration.key, **training, "site": way.site, "computed": computed,
        "weights": begin.tolist(), "device": str(calibration.generation.device),
    }  # fmt: skip
    said = ""
    with progress_of(calibration.cache_dir, depends_on) as progress, memory_for(f"--batch={args.batch}"):
        weights, losses = train(plan, calibration, args.iterations, args.batch, args.rate, args.keep, progress, begin)
        training["distance"] = losses[-1]
        if args.held:
            held = range(args.samples, args.samples + args.held)
            targets = final_latents(calibration, None, held)
            chosen, distances = better(plan, calibration, held, targets, (Trained(begin), Trained(weights)))
            training |= {"held": args.held, "held_distances": distances}
            said = f", of samples apart {distances[0]:.4f} -> {distances[1]:.4f}"
            if chosen == 0:
                weights, said = begin, f"{said}: the start is kept"
        rows = rows_of(weights, computed)
        with room_for(out, DONE):
            write_schedule(out, way.num_evaluations, computed, trained_for=trained_for, weights=rows, training=training)
    passed = time.perf_counter() - started
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    print(f"distance to the target {first:.4f} -> {last:.4f}{said} in {passed:.0f} s: {out}")
    return 0


LEAST = {"iterations": 1, "batch": 1, "samples": 1, "held": 0, "rate": 0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a training of weights can be told."""
    parser.add_argument("--iterations", type=int, default=200, help="batches (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="samples in each (default %(default)s)")
    parser.add_argument("--samples", type=int, default=512, help="of the calibration seed (default %(default)s)")
    parser.add_argument("--held", type=int, default=96, help="more of them, to judge by (default %(default)s)")
    parser.add_argument("--rate", type=float, default=2e-2, help="learning rate at the start (default %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep activations: faster, more memory")


def check_way(way: Way) -> None:
    """Raise ConfigError for a way whose weights cannot be trained."""
    if not way.sampler.deterministic:
        raise ConfigError(f"sampler={way.sampler.name}: must be a deterministic one")
    if not way.schedule.caches():
        raise ConfigError("cache_ratio=0: must be more than 0, as nothing is predicted without a cache")
    check_full_guidance(way)
