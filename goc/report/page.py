"""report.html: one file without network in which finished runs can be plotted, sorted and looked at.

The page itself (layout, plot, table, pictures) is goc/assets/report/report.html; this module fills in its data.
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from goc.report.frame import PROTOCOL, protocol_name
from goc.report.results import SHOWN_IMAGES
from goc.system.files import resolve, write_atomically

TEMPLATE = "asset:report/report.html"
PLACEHOLDER = "{{ data }}"
LARGEST_SIDE = 128  # pixels of one sample; larger ones are scaled down


def write_html(
    frame: pd.DataFrame,
    images: Sequence[NDArray[np.uint8] | None],
    failures: Sequence[tuple[str, str]],
    path: Path,
) -> None:
    """Write the page for the runs of a table.

    frame: `goc.report.frame.table` with a column `series`, the name of the line a run belongs to. Columns `NAME_spread`
    beside `NAME` (half the length of its error bar) are optional. Non-finite numbers count as not measured.
    images: for each row, the first samples as uint8 [n, C, H, W], C = 1 or 3, or None; rows of one protocol
    must show the same seeds. Up to 8 are shown.
    failures: (run, reason) of each run that did not finish.
    Raises ValueError if there is not one entry of `images` for each row.
    """
    rows = frame.to_dict("records")
    names = [protocol_name({str(column): value for column, value in row.items()}) for row in rows]
    protocols = list(dict.fromkeys(names))
    data = {
        "columns": list(map(str, frame.columns)),
        "protocol_columns": PROTOCOL,
        "protocols": protocols,
        "runs": [
            {
                "protocol": protocols.index(name),
                "values": {str(column): _plain(value) for column, value in row.items()},
                "images": None if samples is None else _thumbnails(samples),
            }
            for name, row, samples in zip(names, rows, images, strict=True)
        ],
        "failures": [{"run": run, "reason": reason} for run, reason in failures],
    }
    page = resolve(TEMPLATE).read_text(encoding="utf-8").replace(PLACEHOLDER, _script_json(data))
    write_atomically(path, page.encode())


def _script_json(value: Any) -> str:
    """ASCII JSON that no HTML parser can take for the end of the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    """A cell of the table as JSON has it; what is missing or not finite is None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _thumbnails(images: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """The first samples of uint8 [n, C, H, W] as PNG data URIs with their widths; large ones are scaled down."""
    pixels = images[:SHOWN_IMAGES].transpose(0, 2, 3, 1)
    samples = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return [_thumbnail(Image.fromarray(sample)) for sample in samples]


def _thumbnail(picture: Image.Image) -> dict[str, Any]:
    """A picture as a PNG in a data URI, at most LARGEST_SIDE pixels a side."""
    shrink = LARGEST_SIDE / max(picture.size)
    if shrink < 1:
        width, height = (round(side * shrink) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"source": source, "width": picture.width}
