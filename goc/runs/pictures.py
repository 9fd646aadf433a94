"""Arguments of a pipeline's call that are pictures, which settings name by their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from goc.metrics.image_folder import SUFFIXES
from goc.metrics.pixels import named, opened, pixels
from goc.system.errors import GocError


def pictures_of(call: Mapping[str, Any]) -> dict[str, Path]:
    """The pictures among a call's arguments, by the argument's name; raises GocError for one that is not there."""
    texts = {name: Path(value) for name, value in call.items() if isinstance(value, str)}
    pictures = {name: path for name, path in texts.items() if path.suffix.lower() in SUFFIXES}
    for name, path in pictures.items():
        if not path.is_file():
            raise GocError(f"model.call.{name}={path}: no such file (looked for {path.absolute()})")
    return pictures


def with_pictures(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments with its pictures as RGB images; raises GocError for one whose pixels would be a guess."""
    return {**call, **{name: _read(name, path) for name, path in pictures_of(call).items()}}


def _read(name: str, path: Path) -> Image.Image:
    with named(f"model.call.{name}={path}:"), opened(path.read_bytes()) as image:
        return Image.fromarray(pixels(image, 3))
