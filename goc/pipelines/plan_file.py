"""A calibrated method for a pipeline: which cells are cached and corrected, kept as JSON with what it was made for."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.config.settings import Way
from goc.pipelines.fingerprint import MadeFor
from goc.pipelines.method import plan_with, way_of
from goc.pipelines.session import Run
from goc.pipelines.structure import Blocks, Branches
from goc.planning.plan import Plan
from goc.sampling.noise import TRAINING_STEPS
from goc.system.errors import ConfigError, GocError
from goc.system.files import read_json, write_json

FORMAT = 1
ANOTHER = {
    "transformer": "another transformer",
    "config": "a transformer of another config",
    "weights": "other weights",
    "scheduler": "another scheduler",
}


class PlanError(GocError):
    """A plan that cannot be read, or is for another pipeline."""


@dataclass(frozen=True)
class PipelinePlan:
    """What `calibrate` found; `save` and `load_plan` keep it.

    Args:
        method, cache_ratio, settings: as given to `calibrate`.
        made_for: the model and the scheduler.
        steps: of the sampler.
        mask: cached cells (of an adaptive method: those that may be), bool [evaluations, blocks, 2] or [.., 1, 1].
        correct: where predictions are corrected, bool [steps, places, outputs]; None = everywhere.
        skip_threshold: of an adaptive method.
        alignment: of each step, where it was measured; None before there are gradients.
        blocks, branches: names that were given for what could not be found.
    """

    method: str
    cache_ratio: float | None
    settings: Mapping[str, Any]
    made_for: MadeFor
    steps: int
    mask: Tensor
    correct: Tensor | None = None
    skip_threshold: float | None = None
    alignment: tuple[float | None, ...] | None = None
    blocks: Blocks | None = None
    branches: Branches | None = None

    @property
    def way(self) -> Way:
        """How its budget is spent."""
        return way_of(self.method, self.cache_ratio, self.steps, self.settings)

    @property
    def site(self) -> str:
        """Where features are kept."""
        return self.way.site

    def check(self, made_for: MadeFor) -> None:
        """Raise PlanError if the plan is for another pipeline."""
        expected, given = asdict(self.made_for), asdict(made_for)
        for part, what in ANOTHER.items():
            if expected[part] != given[part]:
                raise PlanError(f"plan: is for {what} ({part} {expected[part]}, not {given[part]}); calibrate anew")

    def plan(self, run: Run) -> Plan:
        """The plan of a pipeline call; raises PlanError if it has another number of steps."""
        if run.steps != self.steps:
            raise PlanError(f"plan: is for {self.steps} steps, not for {run.steps}; calibrate with steps={run.steps}")
        if (scheduler := type(run.scheduler).__name__) != self.made_for.scheduler:
            raise PlanError(f"plan: is for the scheduler {self.made_for.scheduler}, not for {scheduler}")
        return plan_with(self.way, run, self.mask, self.skip_threshold, self.correct)

    def save(self, path: str | Path) -> None:
        """Write it as JSON; the file is whole or as it was before."""
        content = {f: getattr(self, f) for f in ("method", "cache_ratio", "settings", "steps", "skip_threshold",
                                                 "alignment", "blocks", "branches")}  # fmt: skip
        masks = {"mask": _rows(self.mask), "correct": None if self.correct is None else _rows(self.correct)}
        write_json(Path(path), {"goc_plan": FORMAT, "made_for": asdict(self.made_for), **content, **masks})


def load_plan(path: str | Path) -> PipelinePlan:
    """A plan that was saved; raises PlanError if the file is none, or says what no calibration finds."""
    try:
        content = read_json(Path(path))
        if content.pop("goc_plan") != FORMAT:
            raise ValueError("is of another version")
        steps, settings = content["steps"], content["settings"]
        if type(steps) is not int or not 1 <= steps <= TRAINING_STEPS:
            raise ValueError(f"steps must be in [1, {TRAINING_STEPS}]")
        _require("settings", isinstance(settings, dict), "must be named")
        way_of(content["method"], content["cache_ratio"], steps, settings)
        content |= {"mask": _mask("mask", content["mask"], steps), "made_for": MadeFor(**content["made_for"])}
        _require("made_for", _are_names([*asdict(content["made_for"]).values()]), "must be words")
        content["correct"] = None if content["correct"] is None else _mask("correct", content["correct"], steps)
        threshold, alignment = content["skip_threshold"], content["alignment"]
        allowed = threshold is None or (_is_number(threshold) and threshold >= 0)
        _require("skip_threshold", allowed, "must be at least 0")
        if alignment is not None:
            measured = isinstance(alignment, list) and all(value is None or _is_number(value) for value in alignment)
            _require("alignment", measured and len(alignment) == steps, "must be a number, or null, for each step")
            content["alignment"] = tuple(alignment)
        _require("blocks", content["blocks"] is None or _are_names(content["blocks"]), "must be names")
        branches = content["branches"]
        named = isinstance(branches, dict) and all(map(_are_names, branches.values()))
        _require("branches", branches is None or named, "must be names")
        return PipelinePlan(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise PlanError(f"{path}: is no plan of goc.calibrate ({error})") from error


def _require(part: str, condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"{part} {what}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _rows(mask: Tensor) -> dict[str, Any]:
    """A mask [steps, a, b] as JSON: a string of 0 and 1 for each step."""
    rows = ["".join("1" if cell else "0" for cell in row) for row in mask.flatten(1).tolist()]
    return {"shape": list(mask.shape), "steps": rows}


def _mask(part: str, rows: dict[str, Any], steps: int) -> Tensor:
    """The mask, bool [steps, a, b], that `_rows` wrote; raises ValueError if it is not one of so many steps."""
    shape, texts = rows["shape"], rows["steps"]
    sized = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n >= 1 for n in shape)
    _require(part, sized and _are_names(texts) and shape[0] == len(texts) == steps, f"must have {steps} steps")
    _require(part, all(len(text) == shape[1] * shape[2] and set(text) <= {"0", "1"} for text in texts),
             f"must have {shape[1]} x {shape[2]} cells of 0 or 1 in each step")  # fmt: skip
    mask = torch.tensor([[cell == "1" for cell in text] for text in texts]).reshape(shape)
    _require(part, part != "mask" or not mask[0].any(), "caches step 0, before which there is nothing to reuse")
    return mask
