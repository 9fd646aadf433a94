"""The trade-off plot of report.html as a Vega-Lite specification; the page's script fills in its data and axes."""

import contextlib
import hashlib
from functools import cache
from importlib.metadata import version
from typing import Any

import pandas as pd
import vl_convert
from matplotlib.colors import to_hex

from goc.report.frame import is_uncached
from goc.report.plots import styles
from goc.system.files import cache_folder, write_text

DASHES = {"-": [1, 0], "--": [6, 3], ":": [2, 3], "-.": [8, 3, 2, 3]}
SHAPES = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
    ">": "triangle-right", "P": "cross", "X": "M-1-.5L-.5-1 0-.5 .5-1 1-.5 .5 0 1 .5 .5 1 0 .5-.5 1-1 .5-.5 0Z",
    "*": "M0-1L.24-.31.95-.31.38.12.59.81 0 .38-.59.81-.38.12-.95-.31-.24-.31Z",
}  # fmt: skip
AXIS = {"format": ".4~g", "labelOverlap": True, "titleFontSize": 13, "labelFontSize": 12, "gridColor": "#e8ebef"}
NUMBER = {"type": "quantitative", "axis": AXIS}

PUBLISHED = "published"  # the layer of published numbers, whose data the script fills in
LIGHT = "#aab3be"
DIAMOND = {"type": "point", "shape": "diamond", "size": 60, "stroke": LIGHT}

MARK = {channel: {"field": channel, "type": "nominal", "scale": None} for channel in ("fill", "shape")}


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network; it cannot end the element it stands in.

    Putting it together takes three seconds, so it is kept in the user's cache folder, if there is one, behind a line
    with its SHA-256; what is not the script of that line is made again.
    """
    folder = cache_folder()
    kept = None if folder is None else folder / "goc" / f"vega-{version('vl-convert-python')}.js"
    if kept is not None:
        with contextlib.suppress(OSError, ValueError):
            first, _, script = kept.read_text(encoding="utf-8").partition("\n")
            if first == _heading(script):
                return script
    made = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    if kept is not None:
        with contextlib.suppress(OSError):
            write_text(kept, f"{_heading(made)}\n{made}")
    return made


def _heading(script: str) -> str:
    return f"// SHA-256 of what follows: {hashlib.sha256(script.encode()).hexdigest()}"


def tradeoff_spec(rows: pd.DataFrame) -> dict[str, Any]:
    """The plot of one measurement's rows, without data: one line a series, in the colours of tradeoff.png.

    Its data have the fields series, x, y, through (where its line goes: y, but for a row beyond the frame), low and
    high (ends of the error bar), order (of the points of a line), front (whether ringed), uncached, those of `marks`,
    and those of its tooltip, which the script chooses. A single uncached row is also drawn as a level. Published
    numbers lie under all of it, in a layer with data of its own: x, y, fill and text.
    """
    lines = _lines(rows)
    shown = {"condition": {"param": "series", "value": 1}, "value": 0.1}
    x, y = {"field": "x", **NUMBER}, {"field": "y", **NUMBER}
    ends = {"y": {"field": "low", **NUMBER}, "y2": {"field": "high"}}
    line = {"x": x, "y": {"field": "through", **NUMBER}, "opacity": shown, **lines}
    point = {"x": x, "y": y, "opacity": shown, **MARK, "tooltip": []}
    light = {"x": x, "y": y, "tooltip": {"field": "text", "type": "nominal"}, "fill": MARK["fill"]}
    choose = {"name": "series", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    level = [_layer({"type": "rule", "strokeDash": [3, 4], "color": "#555"}, {"y": y}, "uncached")]
    return {
        "width": "container",
        "height": 460,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": {"view": {"stroke": "#9aa5b1"}, "font": "system-ui, sans-serif"},
        "layer": [
            {"name": PUBLISHED, "mark": DIAMOND, "encoding": light},
            *(level if is_uncached(rows).sum() == 1 else []),
            _layer({"type": "line", "strokeWidth": 1.6, "clip": True}, line | {"order": {"field": "order"}})
            | {"params": [choose]},
            _layer({"type": "rule", "strokeWidth": 1.2}, {"x": x, **ends, "opacity": shown, "color": lines["color"]},
                   "low"),
            _layer({"type": "point", "size": 190, "color": "black"}, {"x": x, "y": y}, "front"),
            _layer({"type": "point", "size": 75, "stroke": None}, point),
        ],
    }  # fmt: skip


def _layer(mark: dict[str, Any], encoding: dict[str, Any], where: str | None = None) -> dict[str, Any]:
    """A layer of the rows in which a field is set; the script leaves it out, by its name, if there is none."""
    layer = {"mark": mark, "encoding": encoding}
    if where is None:
        return layer
    return layer | {"name": where, "transform": [{"filter": f"isValid(datum.{where}) && datum.{where} !== false"}]}


def _lines(rows: pd.DataFrame) -> dict[str, Any]:
    """Colour and dashes of each series, in one legend."""
    looks = styles(rows)
    names = list(dict.fromkeys(map(str, rows["series"])))
    ranges = {
        "color": [to_hex(looks[name]["color"]) for name in names],
        "strokeDash": [DASHES[looks[name].get("linestyle", "-")] for name in names],
    }
    legend = {"title": None, "labelLimit": 300, "labelFontSize": 12, "symbolType": "stroke", "symbolSize": 500,
              "symbolStrokeWidth": 2}  # fmt: skip
    return {
        channel: {"field": "series", "type": "nominal", "scale": {"domain": names, "range": values}, "legend": legend}
        for channel, values in ranges.items()
    }


def marks(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Fill and shape of each row's point. (As fields of the data, they stay out of the legend, which shows lines.)"""
    looks = styles(rows)
    row_looks = (looks[str(name)] for name in rows["series"])
    return [{"fill": to_hex(look["color"]), "shape": SHAPES[look["marker"]]} for look in row_looks]
