"""CLIP score (Hessel et al., arXiv 2104.08718): how well an image fits its prompt, by a CLIP of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.models.parts import check_tokenizer, load_part, part_files, reason
from goc.system.errors import GocError
from goc.system.files import files_sha256

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in one file, or in shards that an index names
SHARDS = ("model-*.safetensors", "pytorch_model-*.bin")
CONFIGS = ("*.json", "*.txt")
BATCH = 32  # images at a time
TRIED = 32  # pixels a side of the image that a loaded CLIP is tried on


def find_clip(name: str) -> Path:
    """Folder of a CLIP in the format of transformers: itself, or that of its files from the hub; raises GocError."""
    folder, prefix = Path(name), f"model.clip={name}:"
    if folder.is_dir():
        if not any((folder / f"{file}{end}").is_file() for file in WEIGHTS for end in ("", ".index.json")):
            raise GocError(f"{prefix} must be a folder with {' or '.join(WEIGHTS)}, or the name of a CLIP on the hub")
        return folder
    if name.count("/") != 1 or folder.exists():
        raise GocError(f"{prefix} no such folder; must be a CLIP in the format of transformers, or its name on the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=[*WEIGHTS, *SHARDS, *CONFIGS]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise GocError(f"{prefix} no such folder, nor to be had from the hub") from error


def clip_sha256(folder: Path) -> str:
    """SHA-256 over the files of a CLIP, their names among them: weights, configuration, tokenizer and preparation."""
    return files_sha256(folder, part_files(folder))


@dataclass(frozen=True)
class ClipScore:
    """100 max(cos(image, text), 0) of CLIP's embeddings, for each image and its own text."""

    folder: Path
    network: Any
    processor: Any
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores, float32 [n] on the CPU, of uint8 images [n, 3, H, W] and n texts, cut where CLIP's tokens end.

        Raises GocError for a score that is not finite.
        """
        parts = []
        for start in range(0, len(images), BATCH):
            own, about = images[start : start + BATCH], list(texts[start : start + BATCH])
            given = self.processor(text=about, images=list(own), return_tensors="pt", padding=True, truncation=True).to(
                self.device
            )
            found = self.network(**given)
            cosines = torch.cosine_similarity(found.image_embeds.float(), found.text_embeds.float())
            if not torch.isfinite(cosines).all():
                raise GocError(f"model.clip={self.folder}: gives a score that is not finite")
            parts.append(100 * cosines.clamp(min=0).cpu())
        return torch.cat(parts)


def load_clip(folder: Path, device: torch.device) -> ClipScore:
    """A CLIP in float32 from its folder, tried on one image.

    Raises GocError if it is another model or damaged, if weights are missing, too many or not finite, or if its
    tokenizer and its preparation of images are another CLIP's.
    """

    prefix = f"model.clip={folder}:"
    try:
        from transformers import CLIPModel, CLIPProcessor
    except ImportError as error:
        raise GocError(f"{prefix} needs the package transformers: pip install 'goc[pipelines]'") from error
    try:
        network = load_part(CLIPModel, folder, dtype=torch.float32)
    except ValueError as error:
        raise GocError(f"{prefix} {error}") from error
    try:
        processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        check_tokenizer(processor.tokenizer, folder)
        tokens, known = len(processor.tokenizer), network.config.text_config.vocab_size
        if tokens > known:
            raise ValueError(f"its tokenizer has {tokens} tokens, and its text encoder knows {known}")
        score = ClipScore(folder, network.to(device).eval().requires_grad_(False), processor, device)
        score(torch.zeros(1, 3, TRIED, TRIED, dtype=torch.uint8), ["a"])
    except GocError:
        raise
    except Exception as error:  # what a damaged file can mean to the library has no end, and no common class
        raise GocError(f"{prefix} not a CLIP of transformers, or damaged ({reason(error)})") from error
    return score
