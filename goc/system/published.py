"""SHA-256 of published files, by where goc fetch puts them.

Where it is from: the publishers' own where there are such (torch-fidelity and torchvision give the first eight digits
in a file's name, the hub those of files in Git LFS), and otherwise what several people have independently published of
the same file. Of files that are not here, no value is known.
"""

from pathlib import Path

from goc.system.errors import GocError
from goc.system.files import file_sha256

VAE_CONFIG = "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e"  # the same for both

DINOV2_FILE = "dinov2_vitl14_pretrain.pth"  # DINOv2's ViT-L/14 without registers, as torch.hub names it

PUBLISHED_SHA256 = {
    "DiT-XL-2-256x256.pt": "9ec1876e4c03471bca126663a30e2d1b20610b6d2f87850a39a36f25cc685521",
    "sd-vae-ft-ema/config.json": VAE_CONFIG,
    "sd-vae-ft-ema/diffusion_pytorch_model.safetensors": (
        "32db726da04f06c1b6b14c0043ce115cc87a501482945c5add89a40d838fcb46"
    ),
    "sd-vae-ft-mse/config.json": VAE_CONFIG,
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors": (
        "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815"
    ),
    "weights-inception-2015-12-05-6726825d.pth": "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "lpips/checkpoints/weights-vgg16-lpips.pth": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "lpips/checkpoints/vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "VIRTUAL_imagenet256_labeled.npz": "b32732719497e42660a9affb4a966068cba0855ac449b82015e34ec376d20758",
    "DDIM20_router.pt": "c3134cfe7a69e31f188ac3d8ace7f6b586db92daa30c99f17e46d3f24e7408c7",
    "DDIM50_router.pt": "fd83c172f77ad71f8695d5972497d1a4d113119e0e0415861812ca8eea9f60b2",
}


def require_published(path: Path, name: str) -> None:
    """Raise GocError, with both hashes, for a file that is not the published one of this name."""
    if (sha256 := file_sha256(path)) != (expected := PUBLISHED_SHA256[name]):
        raise GocError(f"{path}: expected SHA-256 {expected} (published), found {sha256}; delete it to get it again")
