"""A finished run as an object: its numbers by name, the table it ends with, and its files."""

import html
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from goc.report.results import FIRST_IMAGES, INFLUENCE_FILE, RESULT_FILE, Influence, load_result
from goc.report.text import WIDTH, printable, width
from goc.sampling.options import kind_of
from goc.system.errors import GocError
from goc.system.files import replacing, write_json

SAVED = (INFLUENCE_FILE, FIRST_IMAGES, "samples.png", "alignment.png")  # beside the result itself


@dataclass(frozen=True)
class Result:
    """What a run measured.

    folder: where its files are. content: its result.json. Numbers have their standard errors beside them, as NAME_se.
    """

    folder: Path
    content: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """The finished run in a folder; raises GocError if there is none."""
        try:
            return cls(Path(folder), load_result(Path(folder)))
        except ValueError as error:
            raise GocError(f"{printable(str(folder))}: holds no finished run: {error}") from error

    def save(self, folder: Path | str) -> Path:
        """Write the result to a folder, with what each sample contributes and the pictures; returns its result.json."""
        path = Path(folder) / RESULT_FILE
        for name in SAVED:
            if (self.folder / name).exists():
                with (self.folder / name).open("rb") as source, replacing(path.with_name(name)) as file:
                    shutil.copyfileobj(source, file)
        write_json(path, self.content)
        return path

    @property
    def method(self) -> str:
        """The method's name in tables."""
        return str(self.content["method"])

    @property
    def config(self) -> dict[str, Any]:
        """Every setting, under the keys that users type."""
        return dict(self.content["config"])

    @property
    def metrics(self) -> dict[str, float | None]:
        """Image quality: fid, is, kid, precision, recall, ..."""
        return dict(self.content["metrics"])

    @property
    def distance(self) -> dict[str, float | None]:
        """Distances to the uncached run of the same seeds: drift, relative_l2_mean, psnr, ssim, ...; empty without."""
        return dict(self.content["distance"])

    @property
    def converged(self) -> dict[str, float | None]:
        """Distance of the first samples to the converged solution; empty where it was not measured."""
        return dict(self.content.get("converged") or {})

    @property
    def cost(self) -> dict[str, Any]:
        """What it cost: evaluations, gmacs_per_image, ms_per_image, cache_ratio, peak_memory_bytes, ..."""
        return dict(self.content["cost"])

    @cached_property
    def influence(self) -> Influence:
        """What each sample contributes to the numbers, float32 [N] by name; raises GocError if that is not there."""
        try:
            return Influence(self.folder, dict(self.content))
        except ValueError as error:
            raise GocError(f"{self.folder}: {error}") from error

    def __str__(self) -> str:
        rows = summary(self.content, self.folder)
        indent = max(len(name) for name, _ in rows) + 4
        across = max(min(width(), WIDTH), 2 * indent)
        wrap = textwrap.TextWrapper(across, subsequent_indent=" " * indent, break_on_hyphens=False)
        lines = [line for name, value in rows[:-1] for line in wrap.wrap(f"  {name:<{indent - 2}}{value}")]
        name, path = rows[-1]  # in one piece, however long
        return "\n".join([*lines, f"  {name:<{indent - 2}}{path}"])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
                 for name, text in summary(self.content, self.folder))  # fmt: skip
        return f"<table>{''.join(cells)}</table>"


def summary(content: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """The rows of the small table that a run ends with; an older version's result may lack some."""
    config, cost = content["config"], content["cost"]
    said = [str(content["method"]), f"{kind_of(config.get('sampler') or '')}-{config.get('steps')}"]
    said += [f"guidance {config['cfg_scale']:g}"] if config.get("cfg_scale") is not None else []
    said += [f"{config['num_samples']} samples"] if config.get("num_samples") is not None else []
    left_out = content.get("guidance") or {}
    guidance = [f"{len(steps)} evaluations {name}" for name, steps in left_out.items() if steps]
    rows = [("method", ", ".join(said))]
    rows += [("guidance", ", ".join(guidance))] if guidance else []
    rows += costs_said(content["elsewhere"]) if "elsewhere" in content else costs(cost)
    rows += with_errors(content["metrics"])
    rows += [(f"{name} to uncached", value) for name, value in with_errors(content["distance"])]
    if (converged := content.get("converged")) is not None:
        numbers = {name: value for name, value in converged.items() if name.startswith(("mean", "median", "p95"))}
        rows += [(f"{name} to converged", value) for name, value in with_errors(numbers)]
    inflection = content["inflection"]
    if inflection.get("alignment") is not None:
        pairs = [f"{i}:{value:.2f}" for i, value in enumerate(inflection["alignment"]) if value is not None]
        rows.append(("alignment", " ".join(pairs)))
    if inflection.get("uncorrected_steps") is not None:
        rows.append(("not corrected", f"cached steps {inflection['uncorrected_steps']}"))
    path = folder / RESULT_FILE
    here = path.is_relative_to(Path.cwd())
    return [*rows, ("written to", str(path.relative_to(Path.cwd()) if here else path))]


def costs(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of what a run cost; an older version's result may lack some."""

    def known(*names: str) -> bool:
        return all(cost.get(name) is not None for name in names)

    rows = []
    if known("cache_ratio"):
        rows.append(("cached", f"{cost['cache_ratio']:.1%} of the cells"))
    if known("gmacs_per_image", "macs_saved"):
        rows.append(("MACs", f"{cost['gmacs_per_image']:.4g} G per image, {cost['macs_saved']:.1%} saved"))
    if known("peak_memory_bytes"):  # or nothing was left to generate
        rows.append(("memory", f"{cost['peak_memory_bytes'] / 2**20:.0f} MiB peak"))
    if known("peak_cache_tensors", "peak_cache_bytes"):
        rows.append(("cache", f"{cost['peak_cache_tensors']} tensors, {cost['peak_cache_bytes'] / 2**20:.4g} MiB"))
    if known("latency_ratio", "ms_per_image"):
        rows.append(("latency", f"{cost['ms_per_image']:.3g} ms per image, {cost['latency_ratio']:.3f} of uncached"))
    return rows


def costs_said(elsewhere: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of images that were made elsewhere: what was said of them."""
    said = {name: elsewhere[name] for name in ("evaluations", "gmacs", "seconds") if elsewhere[name] is not None}
    rows = [("images", f"{elsewhere['images']}, {'paired' if elsewhere['paired'] else 'not paired'} by their index")]
    return rows + [(f"{name} an image", f"{value:g}, as said") for name, value in said.items()]


def with_errors(numbers: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """Names and numbers, each with its standard error NAME_se behind it if it has one."""
    known = {name: value for name, value in numbers.items() if value is not None and not name.endswith("_se")}
    errors = {name: numbers.get(f"{name}_se") for name in known}
    return [
        (name, f"{value:.4g}" + ("" if errors[name] is None else f" ± {errors[name]:.2g}"))
        for name, value in known.items()
    ]
