"""Write random weights in the real file formats, so that the ImageNet pipeline runs without the released files.

    goc random-weights --out DIR --model DiT-S/2 --image-size 256     (or SiT-S/2)

DIR then holds DiT-S-2-256x256.pt (names of the DiT and SiT releases), vae/ (a diffusers folder built as sd-vae-ft-ema),
inception.pth (torch-fidelity's Inception), dinov2.pth (DINOv2's names; small unless --dinov2 large) and reference.npz
(ADM's layout). The same settings give the same bytes.
Metrics of such a run mean nothing; that it runs does.

    goc random-weights --pipeline DIR

writes a tiny text-to-image pipeline instead for model=pipeline, with DIR/prompts.txt, a CLIP in DIR/clip and a BLIP in
DIR/blip.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from goc.metrics.backbones import dinov2_network
from goc.metrics.fidelity import FeatureExtractorInceptionV3
from goc.models.decoder import DOWNSAMPLING
from goc.models.dit import PUBLISHED_PATCHES, DiT
from goc.system.arguments import check_numbers, command_parser
from goc.system.errors import ConfigError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

RELU_GAIN = 2**0.5  # keeps the mean square through a ReLU (He et al., arXiv 1502.01852)
FID_FEATURES, SFID_FEATURES = 2048, 2023
DINOV2_SIZES = {"tiny": (64, 2), "large": (1024, 24)}  # width and depth; large is ViT-L/14
EMBEDDINGS = ("cls_token", "pos_embed")
STATISTICS_SAMPLES = 256  # random vectors behind mu and sigma
MOTIF = 8  # a reference image is a random grid of this many squares a side

# builder's arguments: of the released sd-vae-ft-ema, and of the smallest with the same downsampling
RELEASED_VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}


def randomize(model: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Fill a model's layers so that activations keep their size: weights of variance gain^2 / inputs, small biases.

    Unlike the usual initialisation of a DiT (adaLN-Zero), every block then changes the output. Normalisation layers
    keep theirs; embeddings have unit variance. Drawn on the model's device; other devices draw other numbers.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)


def write_denoiser(path: Path, name: str, image_size: int, seed: int) -> None:
    """A published architecture's state dict; raises ConfigError if there is none for this image size."""
    try:
        model = DiT.published(name, image_size // DOWNSAMPLING)
    except ValueError as error:
        raise ConfigError(f"--model {error}") from error
    randomize(model, seed)
    if name.startswith("SiT"):  # flow matching never trains the other half of the output
        with torch.no_grad():
            model.output_halves()[:, 1] = 0
            model.final_layer.linear.bias.unflatten(0, (-1, 2, model.in_channels))[:, 1] = 0
    torch.save(model.state_dict(), path)


def untrained_vae(image_size: int, tiny: bool) -> "AutoencoderKL":
    """The architecture of the released sd-vae-ft-ema, or the smallest with its downsampling and latent channels."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # takes seconds

    size: dict[str, Any] = TINY_VAE if tiny else RELEASED_VAE
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=image_size,
        scaling_factor=0.18215,
        **size,
    )


def write_vae(folder: Path, image_size: int, tiny: bool, seed: int) -> None:
    """A folder that AutoencoderKL.from_pretrained loads: config.json and safetensors."""
    vae = untrained_vae(image_size, tiny)
    randomize(vae, seed)
    vae.save_pretrained(folder)


class UntrainedInception(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception without weights: its constructor reads an empty file and loads nothing."""

    def __init__(self) -> None:
        empty = BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        super().__init__("untrained", ["2048"], feature_extractor_weights_path=empty)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Keep what is there."""


def write_inception(path: Path, seed: int) -> None:
    """A state dict that FeatureExtractorInceptionV3 loads strictly."""
    model = UntrainedInception()
    randomize(model, seed, RELU_GAIN)
    torch.save(model.state_dict(), path)


def write_dinov2(path: Path, seed: int, size: str) -> None:
    """A state dict of DINOv2's released names, of a size of DINOV2_SIZES."""
    width, depth = DINOV2_SIZES[size]
    model = dinov2_network(518, width, depth)
    randomize(model, seed)
    generator = torch.Generator().manual_seed(seed)
    embeddings = {name: torch.randn(getattr(model, name).shape, generator=generator) for name in EMBEDDINGS}
    torch.save(model.state_dict() | embeddings | {"mask_token": torch.zeros(1, width)}, path)


def statistics(generator: np.random.Generator, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [features] and covariance [features, features] (float64) of random vectors; the covariance is singular."""
    vectors = generator.standard_normal((STATISTICS_SAMPLES, features))
    return vectors.mean(axis=0), np.cov(vectors, rowvar=False)


def write_reference(path: Path, image_size: int, images: int, seed: int) -> None:
    """A reference batch as ADM's: mu, sigma (FID), mu_s, sigma_s (sFID), arr_0 uint8 [images, H, W, 3]."""
    generator = np.random.default_rng(seed)
    mu, sigma = statistics(generator, FID_FEATURES)
    mu_s, sigma_s = statistics(generator, SFID_FEATURES)
    motifs = generator.integers(0, 256, (images, MOTIF, MOTIF, 3), dtype=np.uint8)
    side = image_size // MOTIF
    np.savez(path, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s, arr_0=motifs.repeat(side, 1).repeat(side, 2))


def write(
    out: Path, model: str, image_size: int, seed: int, reference_images: int, tiny_vae: bool, dinov2: str
) -> None:
    """Write all files into a folder and name them; raises ConfigError for settings that fit no model."""
    patch = next((patch for patch in PUBLISHED_PATCHES if model.endswith(f"/{patch}")), 1)
    if image_size % (DOWNSAMPLING * patch):
        raise ConfigError(f"--image-size {image_size}: must be a multiple of {DOWNSAMPLING * patch} for {model}")
    out.mkdir(parents=True, exist_ok=True)
    denoiser = out / f"{model.replace('/', '-')}-{image_size}x{image_size}.pt"
    write_denoiser(denoiser, model, image_size, seed)
    write_vae(out / "vae", image_size, tiny_vae, seed)
    write_inception(out / "inception.pth", seed)
    write_dinov2(out / "dinov2.pth", seed, dinov2)
    write_reference(out / "reference.npz", image_size, reference_images, seed)
    others = (out / name for name in ("vae", "inception.pth", "dinov2.pth", "reference.npz"))
    print("\n".join(map(str, (denoiser, *others))))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; returns the exit code."""
    parser = command_parser(__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder to write into")
    where.add_argument("--pipeline", type=Path, help="folder for a tiny pipeline of diffusers; only --seed matters")
    parser.add_argument("--model", default="DiT-S/2", help="a published architecture, DiT's or SiT's (default DiT-S/2)")
    parser.add_argument("--image-size", type=int, default=256, help="pixels a side (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument(
        "--reference-images", type=int, default=64, help="images in reference.npz (default %(default)s)"
    )
    parser.add_argument("--tiny-vae", action="store_true", help="a very small VAE with the same downsampling factor")
    parser.add_argument("--dinov2", choices=list(DINOV2_SIZES), default="tiny", help="its size; large is 1.2 GB")
    args = parser.parse_args(argv)
    check_numbers(args, {"image_size": 1, "seed": 0, "reference_images": 1})
    if args.pipeline is not None:
        from goc.cli import random_pipeline  # loads diffusers and transformers

        print("\n".join(map(str, random_pipeline.write(args.pipeline, args.seed, randomize))))
        return 0
    write(args.out, args.model, args.image_size, args.seed, args.reference_images, args.tiny_vae, args.dinov2)
    return 0
