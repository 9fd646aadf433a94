"""Train the embedded default: a small pixel-space DiT and a feature extractor on scikit-learn's digits.

    python scripts/train_digits.py            (about 20 minutes of one core; writes goc/assets/digits/)

The same seed, torch build and machine give the same files. All that `goc/assets/digits` ships is
written here, but for the routers (train_router.py).
"""

import argparse
import copy
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split
from torch import Tensor
from tqdm import trange

from goc.metrics.digits import NUM_CLASSES, DigitsClassifier, real_digits
from goc.models.decoder import to_uint8
from goc.models.dit import DiT
from goc.sampling.guidance import guided_denoiser
from goc.sampling.images import image_grid
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import sample
from goc.system.files import ASSETS

ARCHITECTURE = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 1,
    "hidden_size": 64,
    "depth": 12,
    "num_heads": 4,
    "num_classes": NUM_CLASSES,
}
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


def diffusion_loss(model: DiT, schedule: NoiseSchedule, x0: Tensor, labels: Tensor) -> Tensor:
    """Noise-prediction error plus the variational term that trains the variance (arXiv 2102.09672, eq. 16)."""

    def at(values: object, i: Tensor) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64)[i].float()[:, None, None, None]

    i = torch.randint(len(schedule), (len(x0),))
    noise = torch.randn_like(x0)
    alpha_bar, beta = at(schedule.alphas_cumprod, i), at(schedule.betas, i)
    x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    labels = torch.where(torch.rand(len(labels)) < LABEL_DROPOUT, NUM_CLASSES, labels)
    eps, v = model(x, torch.as_tensor(schedule.timesteps)[i], labels).chunk(2, dim=1)

    # KL between the true posterior and the model's, whose mean is held fixed: it teaches v alone
    true_log_variance = at(schedule.posterior_log_variance, i)
    fraction = (v + 1) / 2
    log_variance = fraction * beta.log() + (1 - fraction) * true_log_variance
    mean_error = beta / ((1 - alpha_bar) * (1 - beta)).sqrt() * (eps.detach() - noise)
    kl = log_variance - true_log_variance - 1
    kl = 0.5 * (kl + (true_log_variance - log_variance).exp() + mean_error**2 * (-log_variance).exp())
    return F.mse_loss(eps, noise) + kl.mean()


def train_denoiser(images: Tensor, labels: Tensor, steps: int, seed: int) -> DiT:
    """Train on all images; returns the exponential moving average of the weights."""
    torch.manual_seed(seed)
    model = DiT(**ARCHITECTURE)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    schedule = NoiseSchedule.respaced(1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    progress = trange(steps, desc="denoiser", unit="step")
    for step in progress:
        rate = min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        batch = torch.randint(len(images), (BATCH_SIZE,))
        loss = diffusion_loss(model, schedule, images[batch], labels[batch])
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
def sample_grid(model: DiT, seed: int) -> Image.Image:
    """Ten uncached DDIM-50 samples of each class, one class a row."""
    schedule = NoiseSchedule.respaced(50)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(10)
    x = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    *_, final = sample(guided_denoiser(model, schedule, labels, NUM_CLASSES, 1.0, 3), x, schedule)
    return image_grid(to_uint8(final), columns=10)


def main() -> None:
    """Train both networks and write the assets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000, help="training steps of the denoiser")
    parser.add_argument("--out", type=Path, default=ASSETS / "digits")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums are then in one order on every machine, whatever its number of cores

    images, labels = real_digits()
    extractor, accuracy = train_extractor(images, labels, args.seed)
    save_file(extractor.state_dict(), args.out / "extractor.safetensors")
    with torch.inference_mode():
        features, _ = extractor(to_uint8(images).float() / 127.5 - 1)
    save_file({"features": features}, args.out / "reference.safetensors")

    start = time.perf_counter()
    denoiser = train_denoiser(images, labels, args.steps, args.seed)
    minutes = (time.perf_counter() - start) / 60
    save_file(denoiser.state_dict(), args.out / "denoiser.safetensors")
    sample_grid(denoiser, args.seed).save(args.out / "samples.png")
    (args.out / "README.md").write_text(model_card(denoiser, accuracy, minutes, args))
    print(f"held-out accuracy of the extractor: {accuracy:.2%}; denoiser trained in {minutes:.1f} min; see {args.out}")


def model_card(denoiser: DiT, accuracy: float, minutes: float, args: argparse.Namespace) -> str:
    """What was trained, on what, how, and how well: the text of goc/assets/digits/README.md."""
    parameters = sum(p.numel() for p in denoiser.parameters())
    return f"""# The embedded default: digits

Made by `python scripts/train_digits.py --seed {args.seed} --steps {args.steps}`
(torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads; denoiser {minutes:.1f} minutes).

| file | what |
|---|---|
| `denoiser.safetensors` | class-conditional pixel-space DiT with learned sigma, {parameters:,} parameters, EMA weights |
| `extractor.safetensors` | convolutional feature extractor (64 features, 10 logits); held-out accuracy {accuracy:.2%} |
| `reference.safetensors` | the extractor's features of all 1,797 real images: the reference for FID, KID, precision, recall |
| `samples.png` | ten uncached samples of each class, DDIM-50, no guidance |
| `router-ddim20.pt`, `router-ddim50.pt` | Learning-to-Cache routers: `python scripts/train_router.py steps=20 --out goc/assets/digits/router-ddim20.pt`, `... steps=50 --iterations 120 ...` |

**Data.** scikit-learn's copy of the UCI optical digits test set (`sklearn.datasets.load_digits`): 1,797 real 8x8 images,
10 classes, 17 grey levels scaled to [-1, 1].

**Denoiser.** {", ".join(f"{key} {value}" for key, value in ARCHITECTURE.items())}. All images, batch {BATCH_SIZE},
{args.steps:,} steps of AdamW, learning rate {LEARNING_RATE} with {WARMUP_STEPS} warm-up steps and cosine decay, gradient norm 1,
EMA {EMA_DECAY}, label dropout {LABEL_DROPOUT} (so that guidance works), noise-prediction loss plus the variational term for the
variance, 1000 linear betas.

**Choice.** Three trainings were compared: 8,000 steps (seed 0), 3,000 steps (seed 1), and this one. The longest has the better FID, the shortest draws
poor digits; this one was taken because on it both halves of the GOC paper can be seen (reuse loses quality, an ungated queue diverges at DDIM-50).

**Extractor.** Trained on 80 % of the images (stratified), {EXTRACTOR_EPOCHS} epochs of AdamW, shifts of up to one pixel;
accuracy is on the other 20 %.

**Use.** Comparing caching methods in a minute on a laptop. The denoiser has seen all its data many times: its FID says how methods
differ, not how well digits can be generated. Features and numbers are not comparable with Inception's.

![samples](samples.png)
"""


if __name__ == "__main__":
    main()
