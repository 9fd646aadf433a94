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
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goc.files import resolve, write_atomically
from goc.results import PROTOCOL, SHOWN_IMAGES, protocol_name

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

    frame: `goc.results.table` with a column `series`, the name of the line a run belongs to. Columns `NAME_spread`
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
    samples = torch.from_numpy(np.array(images[:SHOWN_IMAGES]))
    shrink = LARGEST_SIDE / max(samples.shape[-2:])
    if shrink < 1:
        size = [round(side * shrink) for side in samples.shape[-2:]]
        smooth = F.interpolate(samples.float(), size, mode="bilinear", antialias=True)
        samples = smooth.round().clamp(0, 255).byte()
    return [{"source": _data_uri(sample), "width": sample.shape[-1]} for sample in samples]


def _data_uri(image: Tensor) -> str:
    """A uint8 image [C, H, W], grey if C = 1, as a PNG in a data URI."""
    pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
