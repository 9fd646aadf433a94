"""Train the embedded models: small pixel-space DiTs, and two feature extractors, on the digits or on Fashion-MNIST.

    python scripts/train_embedded.py digits extractor
    python scripts/train_embedded.py digits second     (without labels, for a second opinion)
    python scripts/train_embedded.py digits denoiser --objective flow --seed 1     (about 15 minutes of one core)
    python scripts/train_embedded.py fashion samples

All write to goc/assets/NAME/. The same objective, seed, torch build and machine give the same file. A denoiser's
training that was stopped goes on.
"""

import copy
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from real_data import real_digits, real_fashion
from safetensors.torch import save
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import trange

from goc.config import compose_config
from goc.metrics.embedded import NUM_CLASSES, Classifier, Contrasted
from goc.models.build import load_model
from goc.models.decoder import to_uint8
from goc.models.dit import DiT
from goc.models.objective import DIFFUSION, FLOW, OBJECTIVES
from goc.runs.denoiser import uncached_generation
from goc.sampling.images import image_grid
from goc.sampling.noise import NoiseSchedule
from goc.sampling.training import Progress, progress_of
from goc.system.arguments import check_numbers, command_parser
from goc.system.command import run_command
from goc.system.files import ASSETS, resolve, write_atomically


@dataclass(frozen=True)
class Recipe:
    """What differs between the kinds of data; of each, one recipe for both objectives and every seed.

    real: its images and labels, given a folder for what is fetched. held_out: of them, the share or the number that the
    extractor is not trained on. precision: of the extractor's file and of the reference, which is of all images, or of
    the held-out ones. second_epochs: of the second extractor, which is always in half precision.
    """

    real: Callable[[Path], tuple[Tensor, Tensor]]
    models: tuple[str, ...]
    input_size: int
    patch_size: int
    steps: int
    batch_size: int
    extractor_epochs: int
    second_epochs: int
    held_out: float
    precision: torch.dtype
    reference_held_out: bool


RECIPES = {
    "digits": Recipe(
        real=real_digits,
        models=("digits", "digits_1", "digits_2", "digits_flow", "digits_flow_1", "digits_flow_2"),
        input_size=8,
        patch_size=2,
        steps=4000,
        batch_size=128,
        extractor_epochs=60,
        second_epochs=300,
        held_out=0.2,
        precision=torch.float32,
        reference_held_out=False,
    ),
    "fashion": Recipe(
        real=real_fashion,
        models=("fashion", "fashion_flow"),
        input_size=32,
        patch_size=4,
        steps=10_000,
        batch_size=32,
        extractor_epochs=5,
        second_epochs=3,
        held_out=10_000,
        precision=torch.float16,
        reference_held_out=True,
    ),
}
ARCHITECTURE = {"in_channels": 1, "hidden_size": 64, "depth": 12, "num_heads": 4, "num_classes": NUM_CLASSES}
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
EMA_DECAY = 0.999
LABEL_DROPOUT = 0.1
KEEP_EVERY = 100  # steps
CACHE_DIR = Path("outputs/cache")
SECOND_BATCH = 256
MOST_ASKED = 2000  # held-out images whose nearest neighbours are looked for
TEMPERATURE = 0.2  # of the contrast
TILT, ZOOM, SHIFT, BRIGHTNESS = 0.3, 0.2, 0.15, 0.3  # of a view, at most: radians, shares of the size, of the range


def train_extractor(
    name: str, images: Tensor, labels: Tensor, train: Tensor, held_out: Tensor, seed: int
) -> tuple[Classifier, float]:
    """Train the classifier on some of the images; returns it, in its file's precision, and its held-out accuracy."""
    recipe, size = RECIPES[name], images.shape[-1]
    torch.manual_seed(seed)
    model = Classifier(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.extractor_epochs)
    for _ in trange(recipe.extractor_epochs, desc="extractor", unit="epoch"):
        for batch in train[torch.randperm(len(train))].split(64):
            # shifts of up to one pixel, so that the features do not depend on exact placement
            dy, dx = torch.randint(-1, 2, (2,)).tolist()
            x = F.pad(images[batch], (1, 1, 1, 1), value=-1.0)[:, :, 1 + dy :, 1 + dx :][:, :, :size, :size]
            loss = F.cross_entropy(model(x)[1], labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    model.eval().to(recipe.precision).float()
    with torch.inference_mode():
        accuracy = (model(images[held_out])[1].argmax(1) == labels[held_out]).float().mean().item()
    return model, accuracy


def view(images: Tensor) -> Tensor:
    """Images [n, 1, size, size] in [-1, 1] turned, stretched, sheared, moved, and brightened or darkened at random."""
    n = len(images)
    turn = (torch.rand(n) * 2 - 1) * TILT
    zoom = 1 + (torch.rand(n, 2) * 2 - 1) * ZOOM
    place = (torch.rand(n, 2) * 2 - 1) * SHIFT * 2  # the grid is from -1 to 1
    rows = [zoom[:, 0] * turn.cos(), -turn.sin(), place[:, 0], turn.sin(), zoom[:, 1] * turn.cos(), place[:, 1]]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(images.shape), align_corners=False)
    ink = F.grid_sample(images + 1, grid, align_corners=False)  # black, 0, is outside
    light = 1 + (torch.rand(n, 1, 1, 1) * 2 - 1) * BRIGHTNESS
    return (ink * light - 1).clamp(-1, 1)


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """Loss of telling each image's other view [n, D] among all views (NT-Xent, arXiv 2002.05709)."""
    both = F.normalize(torch.cat([first, second]), dim=1)
    alike = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    n = len(first)
    return F.cross_entropy(alike, torch.arange(2 * n).roll(n))


def train_second(name: str, images: Tensor, seed: int) -> Contrasted:
    """Train the second extractor on images alone; returns it in its file's precision."""
    torch.manual_seed(seed)
    model = Contrasted(f"{name}_simclr")
    size = model.features.out_features
    head = nn.Sequential(nn.ReLU(), nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 32))  # for training alone
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, RECIPES[name].second_epochs)
    for _ in trange(RECIPES[name].second_epochs, desc="second extractor", unit="epoch"):
        for batch in torch.randperm(len(images)).split(SECOND_BATCH):
            loss = contrast(head(model(view(images[batch]))), head(model(view(images[batch]))))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model.eval().half().float()


def with_null_labels(labels: Tensor) -> Tensor:
    """Labels [N] of which some are dropped, so that guidance works."""
    return torch.where(torch.rand(len(labels)) < LABEL_DROPOUT, NUM_CLASSES, labels)


def diffusion_loss(model: DiT, schedule: NoiseSchedule, x0: Tensor, labels: Tensor) -> Tensor:
    """Noise-prediction error plus the variational term that trains the variance (arXiv 2102.09672, eq. 16)."""

    def at(values: object, i: Tensor) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64)[i].float()[:, None, None, None]

    i = torch.randint(len(schedule), (len(x0),))
    noise = torch.randn_like(x0)
    alpha_bar, beta = at(schedule.alphas_cumprod, i), at(schedule.betas, i)
    x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    eps, v = model(x, torch.as_tensor(schedule.timesteps)[i], with_null_labels(labels)).chunk(2, dim=1)

    # KL between the true posterior and the model's, whose mean is held fixed: it teaches v alone
    true_log_variance = at(schedule.posterior_log_variance, i)
    fraction = (v + 1) / 2
    log_variance = fraction * beta.log() + (1 - fraction) * true_log_variance
    mean_error = beta / ((1 - alpha_bar) * (1 - beta)).sqrt() * (eps.detach() - noise)
    kl = log_variance - true_log_variance - 1
    kl = 0.5 * (kl + (true_log_variance - log_variance).exp() + mean_error**2 * (-log_variance).exp())
    return F.mse_loss(eps, noise) + kl.mean()


def flow_loss(model: DiT, x1: Tensor, labels: Tensor) -> Tensor:
    """Velocity error on the linear path from noise, t = 0, to data, t = 1 (SiT, arXiv 2401.08740, eq. 5 and 8)."""
    t = torch.rand(len(x1))
    noise = torch.randn_like(x1)
    at = t[:, None, None, None]
    velocity, _ = model(at * x1 + (1 - at) * noise, t, with_null_labels(labels)).chunk(2, dim=1)
    return F.mse_loss(velocity, x1 - noise)


def new_denoiser(recipe: Recipe) -> DiT:
    """The untrained denoiser."""
    return DiT(input_size=recipe.input_size, patch_size=recipe.patch_size, **ARCHITECTURE)


def train_denoiser(
    images: Tensor, labels: Tensor, recipe: Recipe, objective: str, steps: int, seed: int, progress: Progress
) -> tuple[DiT, float]:
    """Train on all images; returns the exponential moving average of the weights, and the processor's seconds."""
    torch.manual_seed(seed)
    model = new_denoiser(recipe)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    schedule = NoiseSchedule.respaced(1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    parameters, spent = dict(model.named_parameters()), torch.zeros((), dtype=torch.float64)
    changed = {f"average.{name}": tensor for name, tensor in average.named_parameters()} | {"seconds": spent}
    random = torch.default_generator
    losses = progress.resume(parameters, optimizer, random, changed)
    bar = trange(len(losses), steps, initial=len(losses), total=steps, desc=f"{objective} {seed}", unit="step")
    for step in bar:
        start = time.process_time()
        rate = min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        batch = torch.randint(len(images), (recipe.batch_size,))
        x0, y = images[batch], labels[batch]
        loss = flow_loss(model, x0, y) if objective == FLOW else diffusion_loss(model, schedule, x0, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        # a short memory at the start, so that the average forgets the random weights
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
        losses.append(loss.item())
        spent += time.process_time() - start
        if (step + 1) % KEEP_EVERY == 0:
            progress.keep(parameters, optimizer, random, losses, changed)
            bar.set_postfix(loss=f"{sum(losses[-KEEP_EVERY:]) / KEEP_EVERY:.4f}")
    return average, spent.item()


@torch.inference_mode()
def sample_grid(models: tuple[str, ...]) -> Image.Image:
    """The first 20 uncached samples of each denoiser of a recipe, 50 steps, the same seeds; one denoiser a row."""
    images = []
    for name in models:
        config = compose_config([f"model={name}", "steps=50"])
        settings = config.measurement.model
        model = load_model(settings.shape(), resolve(settings.checkpoint), settings.objective)
        generation = uncached_generation(config.measurement, config.way, model, torch.device("cpu"))
        images.append(generation.make(range(20))[0]["images"])
    return image_grid(torch.cat(images), columns=20)


def make_extractor(name: str, seed: int, out: Path) -> None:
    """Train the extractor, and write it and the reference: its features of real images."""
    recipe = RECIPES[name]
    images, labels = recipe.real(CACHE_DIR)
    train, held_out = train_test_split(
        torch.arange(len(labels)), test_size=recipe.held_out, stratify=labels, random_state=seed
    )
    extractor, accuracy = train_extractor(name, images, labels, train, held_out, seed)
    state = {key: tensor.to(recipe.precision) for key, tensor in extractor.state_dict().items()}
    write_atomically(out / "extractor.safetensors", save(state, {"held-out accuracy": f"{accuracy:.2%}"}))
    with torch.inference_mode():
        features, _ = extractor(to_uint8(images[held_out] if recipe.reference_held_out else images).float() / 127.5 - 1)
    write_atomically(out / "reference.safetensors", save({"features": features.to(recipe.precision)}))
    print(f"{out}: held-out accuracy {accuracy:.2%}")


def make_second(name: str, seed: int, out: Path) -> None:
    """Train the second extractor, and write it and its reference."""
    recipe = RECIPES[name]
    images, labels = recipe.real(CACHE_DIR)
    train, held_out = train_test_split(
        torch.arange(len(labels)), test_size=recipe.held_out, stratify=labels, random_state=seed
    )
    start = time.process_time()
    extractor = train_second(name, images[train], seed)
    seconds = time.process_time() - start
    with torch.inference_mode():
        features = torch.cat([extractor(to_uint8(part).float() / 127.5 - 1) for part in images.split(1000)])
    asked = held_out[:MOST_ASKED]
    nearest = torch.cdist(features[asked], features[train]).argmin(dim=1)
    accuracy = (labels[train][nearest] == labels[asked]).float().mean().item()
    state = {key: tensor.half() for key, tensor in extractor.state_dict().items()}
    made = {"held-out accuracy of the nearest neighbour": f"{accuracy:.2%}"}
    write_atomically(out / "simclr.safetensors", save(state, made))
    kept = features[held_out] if recipe.reference_held_out else features
    write_atomically(out / "reference-simclr.safetensors", save({"features": kept.half()}))
    print(f"{out}: {made}, {seconds:.0f} s")


def make_denoiser(name: str, objective: str, steps: int, seed: int, out: Path) -> None:
    """Train a denoiser, and write it in half precision, with how it was made."""
    recipe = RECIPES[name]
    images, labels = recipe.real(CACHE_DIR)
    key = {"embedded": name, "objective": objective, "steps": steps, "seed": seed, "batch_size": recipe.batch_size}
    with progress_of(CACHE_DIR, key) as progress:
        denoiser, seconds = train_denoiser(images, labels, recipe, objective, steps, seed, progress)
        made = {
            "objective": objective,
            "seed": str(seed),
            "steps": str(steps),
            "minutes": f"{seconds / 60:.1f}",
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        path = out / f"{objective}-{seed}.safetensors"
        write_atomically(path, save({name: tensor.half() for name, tensor in denoiser.state_dict().items()}, made))
    print(f"{path}: {made}")


def main(arguments: list[str] | None = None) -> int:
    """Train what is asked for and write it; returns the exit code."""
    parser = command_parser(__doc__)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("what", choices=["extractor", "second", "denoiser", "samples"])
    parser.add_argument("--objective", choices=OBJECTIVES, default=DIFFUSION)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="training steps of the denoiser instead of the recipe's")
    parser.add_argument("--out", type=Path, help="folder instead of goc/assets/NAME")
    args = parser.parse_args(arguments)
    recipe = RECIPES[args.name]
    args.steps = recipe.steps if args.steps is None else args.steps
    check_numbers(args, {"seed": 0, "steps": 1})
    out = args.out or ASSETS / args.name
    out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums are then in one order on every machine, whatever its number of cores

    if args.what == "samples":
        sample_grid(recipe.models).save(out / "samples.png")
    elif args.what == "extractor":
        make_extractor(args.name, args.seed, out)
    elif args.what == "second":
        make_second(args.name, args.seed, out)
    else:
        make_denoiser(args.name, args.objective, args.steps, args.seed, out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
