"""Train a Learning-to-Cache router for a model and a number of steps (arXiv 2406.01733).

    goc train router steps=20          (minutes on 2 cores; settings as run.py's, --help for its own)
    python run.py method=l2c schedule.router=outputs/routers/digits/router-ddim20.pt

For every odd step, each branch of each block has a probability of being computed. A cell is computed or reused at
random with that probability, and the gradient passes straight through the choice; the loss is the squared error of the
cached denoiser's output plus a penalty on the probabilities. Trajectories and earlier features are uncached, the
denoiser's weights do not change.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from goc.caching.cache import StepCache
from goc.caching.predictor import Cell
from goc.caching.schedule import cache_ratio_of, l2c
from goc.config import Config, compose_config, validate
from goc.config.validation import check_full_guidance
from goc.models.build import load_model
from goc.models.dit import DiT, DiTBlock
from goc.models.network import BRANCHES
from goc.models.routers import save_router
from goc.runs.denoiser import trajectory_key, uncached_generation
from goc.sampling.guidance import guided_denoiser
from goc.sampling.options import SamplerConfig
from goc.sampling.solvers import Solver, no_noise
from goc.sampling.training import DONE, Progress, progress_of
from goc.system.arguments import check_numbers, check_out, command_parser
from goc.system.device import choose_device
from goc.system.errors import ConfigError, memory_for
from goc.system.files import file_sha256, resolve, room_for

INITIAL_LOGIT = 2.0  # probability 0.88: nearly everything is computed
PUBLISHED_THRESHOLD = 0.1


class FeatureRecorder(StepCache):
    """Keeps every feature [N, tokens, hidden] of the last forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.features: dict[Cell, Tensor] = {}

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        self.features[block, branch] = feature


def mixed_forward(model: DiT, x: Tensor, t: Tensor, y: Tensor, earlier: dict[Cell, Tensor], gates: Tensor) -> Tensor:
    """The denoiser's output [N, 2C, H, W] when each feature is gate * computed + (1 - gate) * earlier.

    gates: float [depth, 2], through which gradients flow; earlier: a feature for each cell.
    """
    h = model.embed(x)
    activated = F.silu(model.t_embedder(t) + model.y_embedder(y))
    modulation = model.modulation(activated)
    for index, block in enumerate(model.blocks):
        assert isinstance(block, DiTBlock)
        for branch in range(BRANCHES):
            shift, scale, gate = modulation.of(index, branch)
            feature = block.compute(branch, h, shift, scale)
            feature = torch.lerp(earlier[index, branch], feature, gates[index, branch])
            h = torch.addcmul(h, gate.unsqueeze(1), feature)
    return model.unpatchify(model.final_layer(h, activated))


def straight_through(logits: Tensor) -> Tensor:
    """Random 0/1 gates of the same shape with probability sigmoid(logits), and the probability's gradient."""
    probability = logits.sigmoid()
    return torch.bernoulli(probability) + probability - probability.detach()


def learn(
    model: DiT, solver: Solver, guidance: tuple[Any, ...], x: Tensor, logits: Tensor, penalty: float
) -> list[float]:
    """One batch's uncached trajectory from noise x [N, C, H, W], adding to the logits' gradient in every odd step.

    guidance: the arguments of `guided_denoiser` behind the model. The logits are on the CPU, so that a seed draws the
    same gates for every device. Returns the error of each odd step.
    """
    recorder, errors, steps = FeatureRecorder(), [], solver.steps
    teacher = guided_denoiser(lambda x, t, y: model(x, t, y, recorder), *guidance)

    def denoise(x: Tensor, i: int) -> Tensor:
        earlier = dict(recorder.features)
        with torch.no_grad():
            target = teacher(x, i)
        if i % 2:
            gates = straight_through(logits[steps - 1 - i]).to(x.device)
            student = guided_denoiser(partial(mixed_forward, model, earlier=earlier, gates=gates), *guidance)
            error = F.mse_loss(student(x, i)[:, : x.shape[1]], target[:, : x.shape[1]])
            (error + penalty * logits[steps - 1 - i].sigmoid().mean()).backward()
            errors.append(error.item())
        return target

    for _ in solver.sample(denoise, x, no_noise):
        pass
    return errors


def train(
    config: Config,
    model: DiT,
    device: torch.device,
    iterations: int,
    batch: int,
    penalty: float,
    rate: float,
    progress: Progress | None = None,
) -> tuple[Tensor, list[float]]:
    """Router logits [steps, depth, 2], indexed by the authors' router number r = steps - 1 - i, and each loss.

    model: on the device. progress: of this training, if it is kept on disk: then it goes on where it was stopped, to
    the same logits.
    """
    measurement = config.measurement
    generation = uncached_generation(measurement, config.way, model, device)
    solver = generation.solver
    torch.manual_seed(measurement.seed)
    logits = torch.full((solver.steps, model.depth, BRANCHES), INITIAL_LOGIT, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=rate)
    random = torch.default_generator  # which the gates are drawn from
    losses = [] if progress is None else progress.resume({"": logits}, optimizer, random)
    bar = trange(len(losses), iterations, initial=len(losses), total=iterations, desc="router", unit="batch")
    for iteration in bar:
        labels, gaussian = generation.drawn(range(iteration * batch, (iteration + 1) * batch))
        guidance = (solver.grid.times, labels, model.num_classes, measurement.cfg_scale, measurement.cfg_channels)
        optimizer.zero_grad()
        errors = learn(model, solver, guidance, gaussian(), logits, penalty)
        optimizer.step()
        losses.append(sum(errors) / len(errors))
        if progress is not None:
            progress.keep({"": logits}, optimizer, random, losses)
        ratio = cache_ratio_of(l2c(logits.detach().sigmoid(), PUBLISHED_THRESHOLD))
        bar.set_postfix(error=f"{losses[-1]:.2e}", cached=f"{ratio:.1%}")
    return logits.detach(), losses


def check_sampler(sampler: SamplerConfig) -> None:
    """Raise ConfigError for one that draws noise, or evaluates the network twice a step."""
    if not sampler.deterministic or sampler.evaluations_per_step > 1:
        raise ConfigError(f"sampler={sampler.name}: must be a deterministic one of one evaluation a step")


def main() -> int:
    """Train a router for run.py's settings and write it; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("settings", nargs="*", help="run.py's: model, sampler, steps, cfg_scale, cfg_channels, seed")
    parser.add_argument("--iterations", type=int, default=200, help="batches (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="samples in each (default %(default)s)")
    parser.add_argument(
        "--penalty", type=float, default=1e-3, help="lambda: weight of the computed cells (default %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate (default %(default)s)")
    parser.add_argument("--out", type=Path, help="default: outputs/routers/MODEL/router-SAMPLERSTEPS.pt")
    args = parser.parse_args()
    check_numbers(args, {"iterations": 1, "batch": 1, "penalty": 0, "rate": 0})
    if args.out is not None:
        check_out(args.out)
    config = compose_config(args.settings)
    validate(config)
    check_sampler(config.way.sampler)
    check_full_guidance(config.way)
    model = config.measurement.model
    if model.network is not None:
        raise ConfigError(f"model.network={model.network}: must be null here, as routers are trained in DiT's blocks")
    checkpoint = resolve(model.checkpoint)
    device = choose_device(config.execution.device)
    denoiser = load_model(model.shape(), checkpoint, model.objective).to(device)
    measurement, steps = config.measurement, config.way.steps
    out = args.out or Path("outputs/routers") / model.name / f"router-{config.way.sampler.name}{steps}.pt"
    trained = {key: value for key, value in vars(args).items() if key not in ("out", "settings")}
    depends_on = {**trajectory_key(measurement, config.way, False, file_sha256(checkpoint), denoiser), **trained}
    if device.type != "cpu":  # other losses, to rounding
        depends_on["device"] = str(device)
    cache_dir, progress_key = Path(config.output.cache_dir), {**depends_on, "router": True, "seed": measurement.seed}
    with progress_of(cache_dir, progress_key) as progress, memory_for(f"--batch={args.batch}"):
        logits, _ = train(config, denoiser, device, args.iterations, args.batch, args.penalty, args.rate, progress)
        settings = {"model": model.name, "num_sampling_steps": steps, "cfg_scale": measurement.cfg_scale}
        with room_for(out, DONE):
            save_router(out, logits, argparse.Namespace(**settings, seed=measurement.seed, **trained))
    print(f"{cache_ratio_of(l2c(logits.sigmoid(), PUBLISHED_THRESHOLD)):.1%} cached at {PUBLISHED_THRESHOLD}: {out}")
    return 0
