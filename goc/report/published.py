"""The field's published numbers (experiments/published.csv), and whether runs that repeat them reproduce them."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from goc.config.known import GROUPS
from goc.config.named import fixed_cells, is_here, setting_of, way_of
from goc.config.settings import Way
from goc.report.columns import columns
from goc.report.frame import DISTINGUISHING
from goc.report.pairs import DECIDED
from goc.sampling.labels import UNIFORM
from goc.system.errors import ConfigError, GocError
from goc.system.files import CONF

if TYPE_CHECKING:
    from torch import Tensor

    from goc.models.cost import Partly
    from goc.models.dit import DiT

PUBLISHED = CONF / "experiment" / "published.csv"
COMPARED = ("fid", "sfid", "is", "precision", "recall", "drift")
PROTOCOL = {
    "model.extractor": "inception",
    "cfg_channels": 3,
    "class_labels": UNIFORM,
}  # what all of them were measured with
# of a way, what rows of tables leave open unless they say it
UNSAID = ("cache_ratio", "gradient_weights", "inflection_threshold", "inflection_signal", "inflection_scope",
          "correct_steps", "steps", "evaluations", "batch_size", "calibration_samples", "calibration_seed")  # fmt: skip
SAME_RATIO = 0.03  # where only a share that is cached is published, runs repeat it that come this close
# where a row's FID or drift was read; what stands only in other people's texts may be wrong
CHECKED = {"paper": "in the paper", "repository": "in its authors' repository", "quoted": "in another text"}


def _parser(parse: Callable[[str], Any], holds: Callable[[Any], bool]) -> Callable[[str], Any]:
    """What `parse` makes of a text, if that holds of it; else it raises ValueError."""

    def parsed(text: str) -> Any:
        if not holds(value := parse(text)):
            raise ValueError
        return value

    return parsed


NAME = (_parser(str, lambda text: text != "" and text == text.strip()), "text")
NUMBER = (_parser(float, lambda value: math.isfinite(value) and value >= 0), "a number of at least 0")
SHARE = (_parser(float, lambda value: 0 <= value < 1), "a share of at least 0 and below 1")
COUNT = (_parser(int, lambda value: value >= 1), "a whole number of at least 1")
FORM: dict[str, tuple[Callable[[str], Any], str]] = {
    "model": NAME, "sampler": NAME, "steps": COUNT, "cfg_scale": NUMBER, "method": NAME, "settings": NAME,
    "cached": SHARE, "samples": COUNT,
    **dict.fromkeys(("flops_t", "speedup", "latency_s", *COMPARED), NUMBER),
    "source": NAME, "checked": (_parser(str, CHECKED.__contains__), f"one of {', '.join(CHECKED)}"),
}  # fmt: skip
VERDICTS = (
    "Reproduced: at most two standard errors from the published number. The error is the run's own, from what each "
    "sample contributes; published numbers have none. FID falls with the number of samples, so others do not compare."
)
MAY_BE_EMPTY = ("settings", "cached", "flops_t", "speedup", "latency_s", *COMPARED)


@dataclass(frozen=True)
class Published:
    """A published row.

    settings: those of this project that repeat it, or the paper's own words where none do. said_cached: the share of
    cached features, where no schedule here tells it. flops_t: TFLOPs per image as papers count them, 2 a multiply-add
    and both halves of guidance. speedup: in FLOPs. latency_s: seconds as the source has them, on its own machine.
    numbers: those of COMPARED that it has; its drift is the FID to the uncached images.
    """

    model: str
    sampler: str
    steps: int
    cfg_scale: float
    method: str
    settings: str
    said_cached: float | None
    samples: int
    flops_t: float | None
    speedup: float | None
    latency_s: float | None
    numbers: Mapping[str, float]
    source: str
    checked: str

    @property
    def is_first_hand(self) -> bool:
        """Whether its FID or drift was read where its authors published it."""
        return self.checked != "quoted"

    @property
    def name(self) -> str:
        """What it is, for people."""
        return " ".join(filter(None, (self.method, self.settings, f"({self.sampler}, {self.steps} steps)")))

    @property
    def words(self) -> tuple[str, ...] | None:
        """Its settings as on a command line; None: they are the paper's own words, or its method is not here."""
        words = tuple(self.settings.split())
        typed = all("=" in word and word[0].islower() for word in words)
        return words if typed and is_here(self.method, self.sampler) else None

    @cached_property
    def way(self) -> Way | None:
        """Its way here; None: there is none."""
        return None if self.words is None else way_of(self.method, self.words, self.sampler, self.steps)

    @cached_property
    def cells(self) -> "tuple[Tensor, Partly] | None":
        """The cells that it caches, and what of them is computed after all; None: they are not known."""
        return None if self.way is None else fixed_cells(self.way, _denoiser(self.model))

    @cached_property
    def shares(self) -> list[float] | None:
        """The share of the cells that is cached, evaluation by evaluation; None: they are not known."""
        return None if self.cells is None else self.cells[0].double().flatten(1).mean(dim=1).tolist()

    @property
    def cached(self) -> float | None:
        """The share of cached features."""
        if self.cells is None or self.shares is None:
            return self.said_cached
        mask, partly = self.cells
        return fmean(self.shares) - partly.share(_denoiser(self.model), mask)

    @property
    def gmacs(self) -> float | None:
        """GMACs per image: counted as those of a run where its cells are known, else from what the source says."""
        from goc.models.cost import image_macs

        if self.way is not None and self.cells is not None:
            (mask, partly), model, guided = self.cells, _denoiser(self.model), self.cfg_scale != 1
            if self.way.site == "stack":
                return image_macs(model, mask[:, :1, :1], guided, "stack") / 1e9
            return image_macs(model, mask, guided, beside=partly.macs(model, mask)) / 1e9
        if self.flops_t is not None:
            return 1e3 * self.flops_t / 2
        if self.speedup is not None:
            return self._uncached_gmacs / self.speedup
        return None if self.said_cached is None else self._uncached_gmacs * (1 - self.said_cached)

    @property
    def evaluations(self) -> float | None:
        """Network evaluations: whole ones where its cells are known, else its GMACs over those of one."""
        if self.shares is not None:
            return round(len(self.shares) * (1 - (self.cached or 0.0)), 6)
        return self.macs_evaluations

    @property
    def macs_evaluations(self) -> float | None:
        """Its GMACs over those of one evaluation."""
        return None if self.gmacs is None else self.steps * self.gmacs / self._uncached_gmacs

    @property
    def _uncached_gmacs(self) -> float:
        from goc.models.cost import forward_macs

        return self.steps * forward_macs(_denoiser(self.model)) * (2 if self.cfg_scale != 1 else 1) / 1e9

    def cost(self, name: str) -> float | None:
        """A cost of the table over runs; None: it is not known, or was measured on another machine."""
        return getattr(self, name) if name in ("evaluations", "macs_evaluations", "gmacs", "cached") else None

    def is_repeated_by(self, run: Mapping[Any, Any]) -> bool:
        """Whether a row of the table over runs is of its model, solver and guidance, with its method and settings."""
        if any(getattr(self, key) != run[key] for key in ("model", "sampler", "steps", "cfg_scale")):
            return False
        if self.method != run["method"] and not self._is_method(run[DISTINGUISHING]):
            return False
        if setting_of(run[DISTINGUISHING], "sampler.timesteps") is not None:  # learned times were never published
            return False
        if pd.isna(run["cached"]):  # of images that were made elsewhere
            return False
        if self.cached is not None and abs(self.cached - run["cached"]) > (SAME_RATIO if self.shares is None else 1e-6):
            return False
        steps = run["cached_share"]  # older results do not have it
        if self.shares is not None and isinstance(steps, list) and not np.allclose(steps, self.shares):
            return False
        if self.words is None:
            return not self.settings and self.said_cached is not None  # the share is all that is known of it
        return all(self._agrees(word.partition("=")[0], run[DISTINGUISHING]) for word in self.words)

    def _is_method(self, settings: Mapping[str, Any]) -> bool:
        """Whether a run is of its method by its parts, where its name tells settings as well that a row may not say."""
        if self.way is None:
            return False
        way = asdict(self.way)
        kinds = [f"{group}.name" for group in GROUPS if group != "sampler"]
        others = [key for key in way if key not in (*UNSAID, *GROUPS)]
        return all(setting_of(settings, key) in (None, setting_of(way, key)) for key in kinds) and all(
            settings.get(key, way[key]) == way[key] for key in others
        )

    def _agrees(self, key: str, settings: Mapping[str, Any]) -> bool:
        """Whether a run has its value of a setting; one of the schedule may follow from the share instead."""
        assert self.way is not None
        of_run, of_row = setting_of(settings, key), setting_of(asdict(self.way), key)
        if key.startswith("schedule.") or key == "cache_ratio":
            return self.shares is not None or of_run is None or of_run == of_row
        return bool(of_run == of_row)


@cache
def _denoiser(name: str) -> "DiT":
    """A published architecture by the name of its model, such as "DiT-XL/2-256", without weights."""
    import torch

    from goc.models.decoder import DOWNSAMPLING
    from goc.models.dit import DiT

    architecture, _, size = name.rpartition("-")
    with torch.device("meta"):
        return DiT.published(architecture, int(size) // DOWNSAMPLING)


@cache
def read_published(path: Path = PUBLISHED) -> tuple[Published, ...]:
    """The rows of a table of published numbers; raises GocError naming the line and the column of what is not one."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(_rows(csv.reader(file, strict=True), path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GocError(f"{path}: cannot be read: {error}") from error


def _rows(lines: Any, path: Path) -> Iterator[Published]:
    head: list[str] = next(lines, [])
    if head != list(FORM):
        raise GocError(f"{path}: line 1: must be {','.join(FORM)}, not {','.join(head)}")
    for texts in lines:
        where = f"{path}: line {lines.line_num}"
        if len(texts) != len(FORM):
            raise GocError(f"{where}: must have {len(FORM)} columns, not {len(texts)}")
        row = {}
        for column, text in zip(FORM, texts, strict=True):
            parse, expected = FORM[column]
            try:
                row[column] = None if not text and column in MAY_BE_EMPTY else parse(text)
            except ValueError as error:
                raise GocError(f"{where}, column {column}: {text!r} must be {expected}") from error
        numbers = {name: value for name in COMPARED if (value := row.pop(name)) is not None}
        if not numbers:
            raise GocError(f"{where}, columns {', '.join(COMPARED)}: all are empty; must have a number")
        published = Published(
            **row | {"settings": row["settings"] or "", "numbers": numbers, "said_cached": row.pop("cached")}
        )
        try:
            _ = published.way
        except ConfigError as error:
            raise GocError(f"{where}, column settings: {error}") from error
        yield published


# ---------------------------------------------------------------- beside runs


def laid_beside(rows: pd.DataFrame) -> list[Published]:
    """The published rows that belong beside a measurement's rows: of its model, guidance and samplers."""
    if not len(rows):
        return []
    model, cfg_scale, samplers = rows["model"].iloc[0], rows["cfg_scale"].iloc[0], set(rows["sampler"])
    return [
        row for row in read_published() if (row.model, row.cfg_scale) == (model, cfg_scale) and row.sampler in samplers
    ]


def positions(rows: Sequence[Published], cost: str, quality: str) -> list[tuple[Published, float, float]]:
    """Rows with their place in a plot of a quality against a cost, as far as they have both."""
    places = ((row, row.cost(cost), row.numbers.get(quality)) for row in rows)
    return [(row, x, y) for row, x, y in places if x is not None and y is not None]


def verdict(run: Mapping[Any, Any], metric: str, row: Published) -> str:
    """Whether a run's number reproduces a published one: is it within two standard errors? "": it has no errors."""
    column = columns()[metric]
    samples, error = run["compared" if column.to_target else "samples"], run.get(f"{metric}_se")
    if not column.error:
        return ""
    for key, value in PROTOCOL.items():
        if (other := setting_of(run[DISTINGUISHING], key)) not in (None, value):  # older results do not have all
            return f"not comparable: {key}={other}"
    if samples != row.samples:
        return f"not comparable: {samples:,.0f} samples"
    if error is None or not error > 0:
        return "error not known"
    return "reproduced" if abs(run[metric] - row.numbers[metric]) <= DECIDED * error else "not reproduced"


def beside(rows: pd.DataFrame, form: Callable[[float, float | None], str]) -> pd.DataFrame:
    """Measured beside published numbers: one row for each number of each published row that a run repeats.

    rows: of one measurement, from `goc.report.frame.over_seeds`, with a column `series`. form: the text of a number and
    its error, if that is known.
    """
    lines = [
        {
            "method": run["series"],
            "steps": run["solver"],
            "settings": row.settings,
            "cached": "" if row.cached is None else f"{row.cached:.1%}",
            "metric": metric,
            "measured": form(run[metric], run.get(f"{metric}_se")),
            "published": value,
            "difference": run[metric] - value,
            "verdict": verdict(run, metric, row),
            "source": row.source,
            "checked": CHECKED[row.checked],
        }
        for run, row in _repeated(rows)
        for metric, value in row.numbers.items()
        if pd.notna(run.get(metric))
    ]
    return pd.DataFrame(lines)


def _repeated(rows: pd.DataFrame) -> Iterator[tuple[Mapping[Any, Any], Published]]:
    candidates = laid_beside(rows)
    for run in rows.to_dict("records"):
        yield from ((run, row) for row in candidates if row.is_repeated_by(run))
