"""Train the weights of predictor=learned for a model, a sampler and a schedule.

    goc train weights cache_ratio=0.75      (minutes on 2 cores; settings as run.py's, --help for its own)
    python run.py method=searched_learned cache_ratio=0.75 predictor.path=outputs/weights/digits-ddim20-5-cfg1.json

For each cached step there are weights on the last computed features, the same for all cells. They start as what the
settings' predictor does (predictor=taylor, or the gradient queue between computed features), and are trained end to
end: the samples of the calibration seeds are taken through the whole sampler with the cache, and the loss is the mean
over samples of |x - x*| / |x*|, where x* is where the same sample ends without a cache. The denoiser's weights do not
change. Activations are computed again when gradients are (checkpointing), one evaluation at a time.
"""

import argparse
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import trange

from goc.caching.cache import StepCache
from goc.caching.predictor import Cell
from goc.caching.schedule import computed_steps_of
from goc.caching.stability import linear_weights
from goc.config import Way, compose_config, validate
from goc.config.validation import OWN_WEIGHTS, check_full_guidance, fill
from goc.models.network import Site, Terms
from goc.models.schedules import rows_of, write_schedule
from goc.planning.denoiser import make_plan, planner_of
from goc.planning.plan import Plan
from goc.runs.denoiser import calibration_alone
from goc.sampling.calibrate import Calibration
from goc.sampling.generation import Generation
from goc.sampling.guidance import Denoiser
from goc.sampling.search import final_latents, mean_distance
from goc.sampling.solvers import no_noise
from goc.sampling.training import DONE, Progress, progress_of
from goc.system.arguments import check_numbers, check_out
from goc.system.device import choose_device, configure
from goc.system.errors import ConfigError, memory_for
from goc.system.files import room_for

LENGTH = 3  # computed features that a prediction may use
Held = dict[Cell, tuple[Tensor, ...]]  # the last computed features of each cell, newest first


class WeightedCache(StepCache):
    """One evaluation's cache: stands in with weighted features, through which gradients flow.

    weights: float [K] in a cached evaluation, None in a computed one. held: its features before; `features`: after.
    """

    def __init__(self, site: Site, weights: Tensor | None, held: Held, length: int) -> None:
        super().__init__(site)
        self.weights, self.features, self.length = weights, dict(held), length

    def lookup(self, block: int, branch: int) -> Terms | None:
        if self.weights is None:
            return None
        features = self.features[block, branch]
        weighted = [weight * feature for weight, feature in zip(self.weights, features, strict=False)]
        return [(1.0, torch.stack(weighted).sum(dim=0))]

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        cell = block, branch
        self.features[cell] = feature, *self.features.get(cell, ())[: self.length - 1]


def weighted_denoiser(
    generation: Generation, labels: Tensor, site: Site, cached: list[bool], weights: Tensor, keep: bool
) -> Denoiser:
    """The denoiser of samples with these labels [n], with predictions by weights [evaluations, K].

    keep: activations are kept for the gradient, instead of being computed again.
    """
    held: Held = {}

    def evaluate(x: Tensor, i: int, row: Tensor, before: Held) -> tuple[Tensor, Held]:
        cache = WeightedCache(site, row if cached[i] else None, before, weights.shape[1])
        return generation.denoiser(labels, cache, generation.solver.grid.times)(x, i), cache.features

    def denoise(x: Tensor, i: int) -> Tensor:
        nonlocal held
        if keep or not torch.is_grad_enabled():
            output, held = evaluate(x, i, weights[i], held)
        else:
            output, held = checkpoint(evaluate, x, i, weights[i], held, use_reentrant=False)
        return output

    return denoise


def start(plan: Plan, length: int) -> Tensor:
    """What the plan's predictor does with the last `length` computed features of a cell, float32 [evaluations, length].

    All cells are the first one, which they are where whole steps are cached and corrected.
    """
    if plan.way.selection.selects:
        raise ConfigError(f"selection={plan.way.selection.name}: must be none where weights are trained")
    cell = replace(plan, mask=plan.mask[:, :1, :1], correct=None if plan.correct is None else plan.correct[:, :1, :1])
    cached = cell.mask.flatten().tolist()
    rows = linear_weights(cell.new_predictor(), cached)
    weights, computed = torch.zeros(len(rows), length), list[int]()
    for step, is_cached in enumerate(cached):
        if not is_cached:
            computed = [step, *computed][:length]
        else:
            weights[step, : len(computed)] = rows[step, computed].float()
            if rows[step].abs().sum() > rows[step, computed].abs().sum() + 1e-9:
                raise ConfigError(
                    f"predictor={plan.way.predictor.name}: must be one that uses the last {length} computed features "
                    "alone: taylor with predictor.order=2, or gradient_queue with predictor.gradients=computed"
                )
    return weights


def train(
    plan: Plan,
    calibration: Calibration,
    iterations: int,
    batch: int,
    rate: float,
    keep: bool,
    progress: Progress | None = None,
) -> tuple[Tensor, list[float]]:
    """Weights [evaluations, K] on the CPU, and the loss of each iteration.

    Adam with cosine decay; batches are drawn from the calibration's samples in an order that its seed decides.
    progress: of this training, if it is kept on disk: then it goes on where it was stopped, to the same weights.
    """
    generation, cached = calibration.seeded(), plan.mask.flatten(1).all(dim=1).tolist()
    targets = final_latents(calibration, None).clone()
    weights = start(plan, LENGTH).to(generation.device).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=rate)
    order = torch.Generator().manual_seed(calibration.seed)
    losses = [] if progress is None else progress.resume({"": weights}, optimizer, order)
    bar = trange(len(losses), iterations, initial=len(losses), total=iterations, desc="weights", unit="batch")
    for iteration in bar:
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * iteration / iterations)) / 2
        chosen = torch.randperm(calibration.samples, generator=order)[:batch].tolist()
        labels, gaussian = generation.drawn(chosen)
        denoise = weighted_denoiser(generation, labels, plan.site, cached, weights, keep)
        *_, x = generation.solver.sample(denoise, gaussian(), no_noise)
        loss = mean_distance(x, targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if progress is not None:
            progress.keep({"": weights}, optimizer, order, losses)
        bar.set_postfix(distance=f"{losses[-1]:.4f}")
    return weights.detach().cpu(), losses


def main() -> int:
    """Train weights for run.py's settings and write them; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "settings", nargs="*", help="run.py's: model, sampler, steps, cache_ratio, cfg_scale, schedule, ..."
    )
    parser.add_argument("--iterations", type=int, default=200, help="batches (default 200)")
    parser.add_argument("--batch", type=int, default=16, help="samples in each (default 16)")
    parser.add_argument("--samples", type=int, default=512, help="of the calibration seed, to draw from (default 512)")
    parser.add_argument("--rate", type=float, default=2e-2, help="learning rate at the start (default 0.02)")
    parser.add_argument("--keep", action="store_true", help="keep activations: faster, more memory")
    parser.add_argument("--out", type=Path, help=f"default: {OWN_WEIGHTS}")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("iterations", "batch", "samples", "rate")}
    started = time.perf_counter()
    check_numbers(args, {"iterations": 1, "batch": 1, "samples": 1, "rate": 0})
    if args.out is not None:
        check_out(args.out)
    config = compose_config(["method=searched", *args.settings])
    validate(config)
    way, measurement, execution = config.way, config.measurement, config.execution
    check_way(way)
    device = choose_device(execution.device, 0)
    configure(device, measurement.precision, execution.deterministic, execution.threads)
    calibration = calibration_alone(config, device, compiled=False)
    plan = make_plan(way, measurement.model, calibration)
    calibration = replace(calibration, samples=args.samples)
    trained_for = planner_of(way, measurement.model, calibration).measurements.trained_for()
    computed = tuple(computed_steps_of(plan.mask))
    out = args.out or Path(fill(OWN_WEIGHTS, way, measurement.model.name, measurement.cfg_scale, len(computed)))
    training = {**settings, "seed": calibration.seed, "start": asdict(way.predictor)}
    depends_on = {
        **calibration.key, **training, "site": way.site, "computed": computed,
        "weights": start(plan, LENGTH).tolist(), "device": str(device),
    }  # fmt: skip
    with progress_of(calibration.cache_dir, depends_on) as progress, memory_for(f"--batch={args.batch}"):
        weights, losses = train(plan, calibration, args.iterations, args.batch, args.rate, args.keep, progress)
        training["distance"], rows = losses[-1], rows_of(weights, computed)
        with room_for(out, DONE):
            write_schedule(out, way.num_evaluations, computed, trained_for=trained_for, weights=rows, training=training)
    passed = time.perf_counter() - started
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    print(f"distance to the target {first:.4f} -> {last:.4f} in {passed:.0f} s: {out}")
    return 0


def check_way(way: Way) -> None:
    """Raise ConfigError for a way whose weights cannot be trained."""
    if not way.sampler.deterministic:
        raise ConfigError(f"sampler={way.sampler.name}: must be a deterministic one")
    if not way.schedule.caches():
        raise ConfigError("cache_ratio=0: must be more than 0, as nothing is predicted without a cache")
    check_full_guidance(way)
