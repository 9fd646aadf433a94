"""The models that score an image beside its prompt: where they are, and what all of them have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from goc.models.parts import check_tokenizer, load_part, part_files, reason
from goc.system.errors import GocError
from goc.system.files import files_sha256

KINDS = {"clip": "CLIP", "blip": "BLIP"}  # settings of a model, and what they name
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in one file, or in shards that an index names
SHARDS = ("model-*.safetensors", "pytorch_model-*.bin")
CONFIGS = ("*.json", "*.txt")
BATCH = 32  # images at a time
TRIED = 32  # pixels a side of the image that a loaded model is tried on


def find_scorer(setting: str, name: str) -> Path:
    """Folder of a scorer in the format of transformers: itself, or that of its files from the hub; raises GocError."""
    folder, prefix, kind = Path(name), f"model.{setting}={name}:", KINDS[setting]
    if folder.is_dir():
        if not any((folder / f"{file}{end}").is_file() for file in WEIGHTS for end in ("", ".index.json")):
            raise GocError(f"{prefix} must be a folder with {' or '.join(WEIGHTS)}, or the name of a {kind} on the hub")
        return folder
    if name.count("/") != 1 or folder.exists():
        raise GocError(
            f"{prefix} no such folder; must be a {kind} in the format of transformers, or its name on the hub"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=[*WEIGHTS, *SHARDS, *CONFIGS]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise GocError(f"{prefix} no such folder, nor to be had from the hub") from error


def scorer_sha256(folder: Path) -> str:
    """SHA-256 over the files of a scorer, their names among them: weights, configuration, tokenizer, preparation."""
    return files_sha256(folder, part_files(folder))


@dataclass(frozen=True)
class Scorer:
    """A network of transformers that gives an image and its text a score; a subclass says which.

    setting: of the model's settings, that names it. classes: of the network and of its processor, in transformers.
    """

    folder: Path
    network: Any
    processor: Any
    device: torch.device

    setting = ""
    classes = ("", "")

    def scores(self, given: Any) -> Tensor:
        """Scores [n] of what the processor made of n images and texts."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores, float32 [n] on the CPU, of uint8 images [n, 3, H, W] and n texts, cut where the tokens end.

        Raises GocError for a score that is not finite.
        """
        parts = []
        for start in range(0, len(images), BATCH):
            about = list(texts[start : start + BATCH])
            parts.append(self.scores(self.prepared(images[start : start + BATCH], about)).float().cpu())
        scores = torch.cat(parts)
        if not torch.isfinite(scores).all():
            raise GocError(f"model.{self.setting}={self.folder}: gives a score that is not finite")
        return scores

    def prepared(self, images: Tensor, texts: list[str]) -> Any:
        """What the network is given for images and texts, of which there may be other numbers."""
        options = {"return_tensors": "pt", "padding": True, "truncation": True}
        return self.processor(text=texts, images=list(images), **options).to(self.device)

    @classmethod
    def vocabulary(cls, config: Any) -> int:
        """How many tokens the network knows."""
        return config.text_config.vocab_size

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """The scorer in float32 from its folder, tried on one image.

        Raises GocError if it is another model or damaged, if weights are missing, too many or not finite, or if its
        tokenizer and its preparation of images are another's.
        """
        prefix = f"model.{cls.setting}={folder}:"
        try:
            import transformers
        except ImportError as error:
            raise GocError(f"{prefix} needs the package transformers: pip install 'goc[pipelines]'") from error
        of_network, of_processor = (getattr(transformers, name) for name in cls.classes)
        try:
            network = load_part(of_network, folder, dtype=torch.float32)
        except ValueError as error:
            raise GocError(f"{prefix} {error}") from error
        try:
            processor: Any = of_processor.from_pretrained(folder, local_files_only=True)
            check_tokenizer(processor.tokenizer, folder)
            tokens, known = len(processor.tokenizer), cls.vocabulary(network.config)
            if tokens > known:
                raise ValueError(f"its tokenizer has {tokens} tokens, and its text encoder knows {known}")
            scorer = cls(folder, network.to(device).eval().requires_grad_(False), processor, device)
            scorer(torch.zeros(1, 3, TRIED, TRIED, dtype=torch.uint8), ["a"])
        except GocError:
            raise
        except Exception as error:  # what a damaged file can mean to the library has no end, and no common class
            kind = KINDS[cls.setting]
            raise GocError(f"{prefix} not a {kind} of transformers, or damaged ({reason(error)})") from error
        return scorer
