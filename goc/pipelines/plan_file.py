"""A calibrated method for a pipeline: which cells are cached and corrected, kept as JSON with what it was made for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goc.pipelines.fingerprint import MadeFor
from goc.pipelines.method import plan_with, way_of
from goc.pipelines.session import Run
from goc.pipelines.structure import Blocks, Branches
from goc.plan import Plan
from goc.system.errors import GocError
from goc.system.files import write_json

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
        mask: cached cells (of an adaptive method: those that may be), bool [steps, blocks, 2] or [steps, 1, 1].
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
    def site(self) -> str:
        """Where features are kept."""
        return way_of(self.method, self.cache_ratio, self.steps, self.settings).site

    def check(self, made_for: MadeFor) -> None:
        """Raise PlanError if the plan is for another pipeline."""
        own, other = asdict(self.made_for), asdict(made_for)
        for part, what in ANOTHER.items():
            if own[part] != other[part]:
                raise PlanError(f"plan: is for {what} ({part} {own[part]}, not {other[part]}); calibrate anew")

    def plan(self, run: Run) -> Plan:
        """The plan of a pipeline call; raises PlanError if it has another number of steps."""
        if run.steps != self.steps:
            raise PlanError(f"plan: is for {self.steps} steps, not for {run.steps}; calibrate with steps={run.steps}")
        if (scheduler := type(run.scheduler).__name__) != self.made_for.scheduler:
            raise PlanError(f"plan: is for the scheduler {self.made_for.scheduler}, not for {scheduler}")
        way = way_of(self.method, self.cache_ratio, self.steps, self.settings)
        return plan_with(way, run, self.mask, self.skip_threshold, self.correct)

    def save(self, path: str | Path) -> None:
        """Write it as JSON; the file is whole or as it was before."""
        content = {f: getattr(self, f) for f in ("method", "cache_ratio", "settings", "steps", "skip_threshold",
                                                 "alignment", "blocks", "branches")}  # fmt: skip
        masks = {"mask": _rows(self.mask), "correct": None if self.correct is None else _rows(self.correct)}
        write_json(Path(path), {"goc_plan": FORMAT, "made_for": asdict(self.made_for), **content, **masks})


def load_plan(path: str | Path) -> PipelinePlan:
    """A plan that was saved; raises PlanError if the file is none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.pop("goc_plan") != FORMAT:
            raise ValueError("is of another version")
        content |= {"mask": _mask(content["mask"]), "made_for": MadeFor(**content["made_for"])}
        content["correct"] = None if content["correct"] is None else _mask(content["correct"])
        content["alignment"] = None if content["alignment"] is None else tuple(content["alignment"])
        return PipelinePlan(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path}: is no plan of goc.calibrate ({error})") from error


def _rows(mask: Tensor) -> dict[str, Any]:
    """A mask [steps, a, b] as JSON: a string of 0 and 1 for each step."""
    rows = ["".join("1" if cell else "0" for cell in row) for row in mask.flatten(1).tolist()]
    return {"shape": list(mask.shape), "steps": rows}


def _mask(rows: dict[str, Any]) -> Tensor:
    cells = [[cell == "1" for cell in row] for row in rows["steps"]]
    return torch.tensor(cells).reshape(rows["shape"])
