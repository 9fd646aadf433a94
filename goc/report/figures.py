"""Writes a figure of matplotlib to a file that is whole or absent."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from goc.system.files import replacing, room_for


def write_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure in the format of the path's suffix; options: savefig's. Raises GocError if there is no room."""
    with room_for(path), replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".").lower(), **options)
