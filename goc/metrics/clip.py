"""CLIP score (Hessel et al., arXiv 2104.08718): how well an image fits its prompt, by a CLIP of transformers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.system.errors import GocError
from goc.system.files import file_sha256

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIGS = ("*.json", "*.txt")
BATCH = 32  # images at a time


def find_clip(name: str) -> Path:
    """Folder of a CLIP in the format of transformers: itself, or that of its files from the hub; raises GocError."""
    folder, prefix = Path(name), f"model.clip={name}:"
    if folder.is_dir():
        if not any((folder / file).is_file() for file in WEIGHTS):
            raise GocError(f"{prefix} must be a folder with {' or '.join(WEIGHTS)}, or the name of a CLIP on the hub")
        return folder
    if name.count("/") != 1 or folder.exists():
        raise GocError(f"{prefix} no such folder; must be a CLIP in the format of transformers, or its name on the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=[*WEIGHTS, *CONFIGS]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise GocError(f"{prefix} no such folder, nor to be had from the hub") from error


def clip_sha256(folder: Path) -> str:
    """SHA-256 over the files of a CLIP, their names among them."""
    files = sorted(path for pattern in (*WEIGHTS, *CONFIGS) for path in folder.glob(pattern))
    named = {path.name: file_sha256(path) for path in files}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ClipScore:
    """100 max(cos(image, text), 0) of CLIP's embeddings, for each image and its own text."""

    network: Any
    processor: Any
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores, float32 [n] on the CPU, of uint8 images [n, 3, H, W] and n texts, cut where CLIP's tokens end."""
        parts = []
        for start in range(0, len(images), BATCH):
            own, about = images[start : start + BATCH], list(texts[start : start + BATCH])
            given = self.processor(text=about, images=list(own), return_tensors="pt", padding=True, truncation=True).to(
                self.device
            )
            found = self.network(**given)
            cosines = torch.cosine_similarity(found.image_embeds.float(), found.text_embeds.float())
            parts.append(100 * cosines.clamp(min=0).cpu())
        return torch.cat(parts)


def load_clip(folder: Path, device: torch.device) -> ClipScore:
    """A CLIP in float32 from its folder; raises GocError if it is another model, or damaged."""
    from goc.system import torchvision  # noqa: F401  (first, as transformers imports torchvision)

    # isort: split
    try:
        from transformers import CLIPModel, CLIPProcessor

        network: Any = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise GocError(f"model.clip={folder}: not a CLIP of transformers, or damaged ({reason})") from error
    return ClipScore(network.to(device).eval().requires_grad_(False), processor, device)
