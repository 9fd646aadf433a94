"""Images of samples: a grid to look at, and files of all of them."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from goc.system.files import replacing, room_for

MINIMUM_SIDE, MAXIMUM_SIDE = 48, 512  # of a sample in a grid, in pixels
GRID_SAMPLES = 64  # in samples.png


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 images [N, C, H, W], C = 1 or 3, row by row.

    Small ones are enlarged by whole factors, never smoothed; large ones are reduced by whole factors.
    """
    if (reduced := -(-max(images.shape[-2:]) // MAXIMUM_SIDE)) > 1:
        images = torch.nn.functional.avg_pool2d(images.float(), reduced).round().to(torch.uint8)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    padded = torch.full((rows * columns, channels, height + 1, width + 1), 255, dtype=torch.uint8)
    padded[:n, :, :height, :width] = images
    grid = padded.view(rows, columns, channels, height + 1, width + 1)
    grid = grid.permute(0, 3, 1, 4, 2).reshape(rows * (height + 1), columns * (width + 1), channels)
    picture = Image.fromarray(grid.squeeze(-1).numpy())
    factor = -(-MINIMUM_SIDE // min(height, width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _channels_last(images: Tensor) -> np.ndarray:
    """uint8 [N, C, H, W] -> [N, H, W, C]."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def write_pngs(batches: Iterable[Tensor], folder: Path) -> None:
    """Write uint8 images [n, C, H, W] to FOLDER/000000.png and on, in order of the samples."""
    with room_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
    index = 0
    for images in batches:
        for image in _channels_last(images):
            path = folder / f"{index:06d}.png"
            with room_for(path):
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
            index += 1


def write_npz(batches: Iterable[Tensor], count: int, path: Path) -> None:
    """Write `count` uint8 images as ADM's evaluation suite reads them: one array arr_0 [count, H, W, C] in an .npz.

    batches: images [n, C, H, W]; one batch is in memory at a time. The file is whole or absent.
    """
    with (
        replacing(path) as file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        for number, images in enumerate(batches):
            array = _channels_last(images)
            if number == 0:
                header = np.lib.format.header_data_from_array_1_0(array)
                header["shape"] = (count, *array.shape[1:])
                np.lib.format.write_array_header_2_0(member, header)
            member.write(array.tobytes())
