"""Train the embedded models: small pixel-space DiTs, and a feature extractor, on scikit-learn's digits.

    python scripts/train_digits.py extractor
    python scripts/train_digits.py denoiser --objective flow --seed 1     (about 15 minutes of one core)
    python scripts/train_digits.py samples

All write to goc/assets/digits/. The same objective, seed, torch build and machine give the same file.
"""

import argparse
import copy
import math
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from sklearn.model_selection import train_test_split
from torch import Tensor
from tqdm import trange

from goc.config import compose_config
from goc.metrics.digits import NUM_CLASSES, DigitsClassifier, real_digits
from goc.models.build import load_model
from goc.models.decoder import to_uint8
from goc.models.dit import DiT
from goc.models.objective import DIFFUSION, FLOW, OBJECTIVES
from goc.runs.sources import uncached_generation
from goc.sampling.images import image_grid
from goc.sampling.noise import NoiseSchedule
from goc.system.arguments import check_numbers
from goc.system.command import run_command
from goc.system.files import ASSETS, resolve, write_atomically

ARCHITECTURE = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 1,
    "hidden_size": 64,
    "depth": 12,
    "num_heads": 4,
    "num_classes": NUM_CLASSES,
}
# one recipe for both objectives and every seed
STEPS = 4000
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
EMA_DECAY = 0.999
LABEL_DROPOUT = 0.1
EXTRACTOR_EPOCHS = 60
HELD_OUT = 0.2


def train_extractor(images: Tensor, labels: Tensor, seed: int) -> tuple[DigitsClassifier, float]:
    """Train the classifier on 80 % of the images (stratified); returns it and its accuracy on the other 20 %."""
    torch.manual_seed(seed)
    train, held_out = train_test_split(
        torch.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=seed
    )
    model = DigitsClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EXTRACTOR_EPOCHS)
    for _ in trange(EXTRACTOR_EPOCHS, desc="extractor", unit="epoch"):
        for batch in train[torch.randperm(len(train))].split(64):
            # shifts of up to one pixel, so that the features do not depend on exact placement
            dy, dx = torch.randint(-1, 2, (2,)).tolist()
            x = F.pad(images[batch], (1, 1, 1, 1), value=-1.0)[:, :, 1 + dy : 9 + dy, 1 + dx : 9 + dx]
            loss = F.cross_entropy(model(x)[1], labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    model.eval()
    with torch.inference_mode():
        accuracy = (model(images[held_out])[1].argmax(1) == labels[held_out]).float().mean().item()
    return model, accuracy


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


def train_denoiser(images: Tensor, labels: Tensor, objective: str, steps: int, seed: int) -> DiT:
    """Train on all images; returns the exponential moving average of the weights."""
    torch.manual_seed(seed)
    model = DiT(**ARCHITECTURE)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    schedule = NoiseSchedule.respaced(1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    progress = trange(steps, desc=f"{objective} {seed}", unit="step")
    for step in progress:
        rate = min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        batch = torch.randint(len(images), (BATCH_SIZE,))
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
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")
    return average


@torch.inference_mode()
def sample_grid() -> Image.Image:
    """The first 20 uncached samples of each denoiser of the recipe, 50 steps, the same seeds; one denoiser a row."""
    images = []
    for name in ("digits", "digits_1", "digits_2", "digits_flow", "digits_flow_1", "digits_flow_2"):
        config = compose_config([f"model={name}", "steps=50"])
        settings = config.measurement.model
        model = load_model(settings.shape(), resolve(settings.checkpoint), settings.objective)
        generation = uncached_generation(config.measurement, config.way, model, torch.device("cpu"))
        images.append(generation.make(range(20))[0]["images"])
    return image_grid(torch.cat(images), columns=20)


def main() -> int:
    """Train what is asked for and write it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["extractor", "denoiser", "samples"])
    parser.add_argument("--objective", choices=OBJECTIVES, default=DIFFUSION)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of the denoiser")
    parser.add_argument("--out", type=Path, default=ASSETS / "digits")
    args = parser.parse_args()
    check_numbers(args, {"seed": 0, "steps": 1})
    args.out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums are then in one order on every machine, whatever its number of cores

    if args.what == "samples":
        sample_grid().save(args.out / "samples.png")
        return 0
    images, labels = real_digits()
    if args.what == "extractor":
        extractor, accuracy = train_extractor(images, labels, args.seed)
        about = {"held-out accuracy": f"{accuracy:.2%}"}
        write_atomically(args.out / "extractor.safetensors", save(extractor.state_dict(), about))
        with torch.inference_mode():
            features, _ = extractor(to_uint8(images).float() / 127.5 - 1)
        write_atomically(args.out / "reference.safetensors", save({"features": features}))
        return 0

    start = time.perf_counter()
    denoiser = train_denoiser(images, labels, args.objective, args.steps, args.seed)
    made = {
        "objective": args.objective,
        "seed": str(args.seed),
        "steps": str(args.steps),
        "minutes": f"{(time.perf_counter() - start) / 60:.1f}",
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    path = args.out / f"{args.objective}-{args.seed}.safetensors"
    write_atomically(path, save({name: tensor.half() for name, tensor in denoiser.state_dict().items()}, made))
    print(f"{path}: {made}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, kept="nothing is kept of a training that has not ended; the same command begins anew"))
