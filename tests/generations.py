"""Generations of a tiny random model, for tests and for the processes that they start."""

import torch

from goc.models.decoder import decode_pixels
from goc.models.dit import DiT
from goc.sampling.generation import Generation
from goc.sampling.options import SAMPLERS
from goc.sampling.shards import Keep

KEEP = Keep()


def generation(model: DiT, sampler: str = "ddim", seed: int = 0) -> Generation:
    return Generation(
        model=model,
        solver=SAMPLERS[sampler]().solver(4),
        cfg_scale=1.5,
        cfg_channels=3,
        seed=seed,
        decode=decode_pixels,
        device=torch.device("cpu"),
    )


def random_model() -> DiT:
    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=3, num_heads=2, num_classes=5)
    return model.eval()
