"""What a plan was made for, in a few words that change when the model does."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from goc.system.files import content_key

VALUES = 64  # that are read of each tensor


def config_fingerprint(config: Mapping[str, Any]) -> str:
    """A short name for a transformer's config, whatever folder and version of diffusers it was read with."""
    return content_key({key: repr(value) for key, value in dict(config).items() if not key.startswith("_")})


@torch.no_grad()
def weights_fingerprint(transformer: nn.Module) -> str:
    """A short name for weights: of their names, their shapes, and up to VALUES evenly spaced values of each tensor.

    Values are taken as bfloat16, so that a model cast to that is the same one. Tensors without storage count by name.
    """
    digest = hashlib.sha256()
    samples = []
    for name, tensor in sorted(transformer.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        if tensor.numel() and not tensor.is_meta:
            flat = tensor.detach().reshape(-1)
            samples.append(flat[:: max(1, flat.numel() // VALUES)][:VALUES].to(torch.bfloat16))
    for device in sorted({str(sample.device) for sample in samples}):
        together = torch.cat([sample for sample in samples if str(sample.device) == device])  # one copy from a GPU
        digest.update(together.cpu().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class MadeFor:
    """A transformer's class, config and weights, and a scheduler's class."""

    transformer: str
    config: str
    weights: str
    scheduler: str

    @classmethod
    def of(cls, transformer: nn.Module, scheduler: Any) -> "MadeFor":
        """What a pipeline's transformer and scheduler are now."""
        return cls(
            type(transformer).__name__,
            config_fingerprint(getattr(transformer, "config", {})),
            weights_fingerprint(transformer),
            type(scheduler).__name__,
        )
