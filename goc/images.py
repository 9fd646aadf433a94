"""Pictures of samples: a grid of images, enlarged enough to be looked at."""

import torch
from PIL import Image
from torch import Tensor

MINIMUM_SIDE = 48


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 images [N, C, H, W], C = 1 or 3, row by row; small ones are enlarged by whole factors, never smoothed."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    padded = torch.full((rows * columns, channels, height + 1, width + 1), 255, dtype=torch.uint8)
    padded[:n, :, :height, :width] = images
    grid = padded.view(rows, columns, channels, height + 1, width + 1)
    grid = grid.permute(0, 3, 1, 4, 2).reshape(rows * (height + 1), columns * (width + 1), channels)
    picture = Image.fromarray(grid.squeeze(-1).numpy())
    factor = -(-MINIMUM_SIDE // min(height, width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
