"""Arguments of a pipeline's call that are pictures, which settings name by their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from goc.pipelines.session import PipelineError
from goc.system.files import file_sha256

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def pictures_of(call: Mapping[str, Any]) -> dict[str, Path]:
    """The pictures among a call's arguments, by the argument's name; raises PipelineError for one that is not there."""
    found = {
        name: Path(value) for name, value in call.items() if isinstance(value, str) and value.lower().endswith(SUFFIXES)
    }
    for name, path in found.items():
        if not path.is_file():
            raise PipelineError(f"model.call.{name}={path}: no such file (looked for {path.absolute()})")
    return found


def pictures_sha256(call: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each, by a name of its own."""
    return {f"call_{name}_sha256": file_sha256(path) for name, path in pictures_of(call).items()}


def loaded(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments with its pictures as RGB images; raises PipelineError for a file that is none."""
    arguments = dict(call)
    for name, path in pictures_of(call).items():
        try:
            with Image.open(path) as picture:
                arguments[name] = picture.convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise PipelineError(f"model.call.{name}={path}: is no picture that can be read ({error})") from error
    return arguments
