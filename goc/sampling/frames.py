"""Videos as samples: their frames lie side by side in one picture, and are scored one by one."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

FRAMES = "frames"  # entry of a shard of videos: how many each has, int64 [n]


def side_by_side(videos: Tensor) -> Tensor:
    """Frames [n, F, C, H, W] as one picture of each sample, [n, C, H, F W]."""
    return videos.permute(0, 2, 3, 1, 4).flatten(3)


def frames_of(pictures: Tensor, count: int) -> Tensor:
    """The frames [n F, C, H, W] of pictures [n, C, H, F W], the first sample's first."""
    return pictures.unflatten(3, (count, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1).contiguous()


def mean_over_frames(values: np.ndarray, count: int) -> np.ndarray:
    """Numbers of frames [n F] as their means over each sample's, [n]."""
    return values.reshape(-1, count).mean(axis=1)


def count_of(tensors: dict[str, Tensor]) -> int:
    """How many frames a shard's samples have; 1 of images."""
    return int(tensors[FRAMES][0]) if FRAMES in tensors else 1


def scored(score: Callable[[range, Tensor], Tensor], indices: range, pictures: Tensor, count: int) -> Tensor:
    """A score of images [n, C, H, W] -> [n] as its mean over the frames of samples."""
    if count == 1:
        return score(indices, pictures)
    frames = frames_of(pictures, count).unflatten(0, (-1, count))
    return torch.stack([torch.as_tensor(score(indices, frame)) for frame in frames.unbind(1)]).float().mean(dim=0)
