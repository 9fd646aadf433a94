"""A method's plan for a pipeline, from what uncached calls of it measure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from goc.caching.cache import StepCache
from goc.caching.calibration import (
    AlignmentRecorder,
    ErrorRecorder,
    InputChangeRecorder,
    MagnitudeRecorder,
    ProductRecorder,
)
from goc.caching.inflection import step_alignment
from goc.config.settings import Way
from goc.models.network import BRANCHES
from goc.models.seen import Seen
from goc.pipelines.early import until
from goc.pipelines.enable import attach, disable_cache, planned, transformer_of
from goc.pipelines.fingerprint import MadeFor
from goc.pipelines.method import PipelineCall, way_of
from goc.pipelines.plan_file import PipelinePlan
from goc.pipelines.session import NewCache, PipelineError, Run
from goc.pipelines.structure import Blocks, Branches
from goc.planning.plan import Plan
from goc.planning.planner import Cells, Planner, Search, of_cells
from goc.sampling.distance import relative_distances
from goc.sampling.local_search import Steps
from goc.sampling.search import HALVING, budget_of, kept, moves_and_loss, progress_bar, raced

SEED = 2503

Prompt = str | Mapping[str, Any]
CellRecorder = TypeVar("CellRecorder", AlignmentRecorder, ProductRecorder)


def calibrate(
    pipe: Any,
    prompts: Sequence[Prompt],
    method: str = "goc",
    cache_ratio: float | None = 0.5,
    *,
    steps: int,
    call: Mapping[str, Any] | None = None,
    seed: int = SEED,
    blocks: Blocks | None = None,
    branches: Branches | None = None,
    **settings: Any,
) -> PipelinePlan:
    """A method's plan for a pipeline, measured in uncached calls of it.

        plan = goc.calibrate(pipe, ["a cat", "a ship at sea"], method="goc", steps=28)
        plan.save("plan.json")
        goc.enable_cache(pipe, plan=goc.load_plan("plan.json"))

    Gates of the gradient queue at inflections, schedules of SmoothCache, MagCache, TeaCache and dynamic programming
    come from one or two calls for each prompt; `method="searched"` and `"budcache"` try schedule after schedule
    (search_evaluations, each a call for the first search_samples prompts), and show their progress. Where guidance
    calls the transformer twice in a step, what is measured is the mean of both.

    prompts: texts, or the keyword arguments of a call each. steps: num_inference_steps. call: more keyword arguments,
    the same for all prompts. seed: prompt i has a generator of seed + i. The rest as for `enable_cache`. Raises
    GocError, and leaves the pipeline as it was.
    """
    if not prompts or isinstance(prompts, str):
        raise PipelineError(f"prompts={prompts!r}: must be a list of at least one prompt")
    way, transformer = way_of(method, cache_ratio, steps, settings), transformer_of(pipe)
    trial = Trial(pipe, prompts, {**(call or {}), "num_inference_steps": steps}, seed, blocks, branches)
    run = trial.probe(way.site)
    parts, made_for = measured(way, trial, run), MadeFor.of(transformer, pipe.scheduler)
    by_step = None if parts.alignment is None else _numbers(step_alignment(parts.alignment))
    return PipelinePlan(
        method, cache_ratio, settings, made_for, run.steps, parts.mask, parts.correct, parts.skip_threshold, by_step,
        blocks, branches,
    )  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What a way's plan for a pipeline is made of.

    mask: of the way's site. skip_threshold: of an adaptive schedule. correct: [steps, places, outputs]; None:
    everywhere. alignment: of the cells that were seen, [steps, cells, 1], if it was measured.
    """

    mask: Tensor
    skip_threshold: float | None
    correct: Tensor | None
    alignment: Tensor | None


def measured(way: Way, trial: "Trial", run: Run) -> Measured:
    """What a way's plan is made of, for calls like this run, as a trial's calls tell; raises GocError."""
    way.schedule.check(run.steps)
    planner = Planner(way, Measuring(way, run, trial))
    mask, skip_threshold = planner.choose()
    return Measured(mask, skip_threshold, *planner.correction(mask))


def _numbers(values: Tensor) -> tuple[float | None, ...]:
    """A tensor [n] as numbers, None where there is none."""
    return tuple(None if math.isnan(value) else value for value in values.tolist())


@dataclass(frozen=True)
class Trial:
    """Calls of a pipeline, the same ones again and again."""

    pipe: Any
    prompts: Sequence[Prompt]
    call: Mapping[str, Any]
    seed: int
    blocks: Blocks | None
    branches: Branches | None

    def samples(self, site: str = "branch", new_cache: NewCache | None = None, selects: bool = False) -> list[Tensor]:
        """What the calls give, latents where the pipeline can give them; new_cache None: without a cache."""
        if new_cache is not None:
            attach(self.pipe, new_cache, site=site, selects=selects, blocks=self.blocks, branches=self.branches)
        try:
            return [self._sample(index, prompt) for index, prompt in enumerate(self.prompts)]
        finally:
            if new_cache is not None:
                disable_cache(self.pipe)

    def _sample(self, index: int, prompt: Prompt) -> Tensor:
        prompted = {"prompt": prompt} if isinstance(prompt, str) else prompt
        fixed = {"generator": torch.Generator().manual_seed(self.seed + index), "return_dict": False}
        return torch.as_tensor(self.pipe(**{"output_type": "latent", **self.call, **prompted, **fixed})[0])

    def some(self, indices: range) -> "Trial":
        """The calls for the prompts with these indices."""
        prompts = self.prompts[indices.start : indices.stop]
        return replace(self, prompts=prompts, seed=self.seed + indices.start)

    def probe(self, site: str) -> Run:
        """What a call is like: it ends before its first step."""
        runs = list[Run]()
        with until() as leave:

            def stop(run: Run) -> NoReturn:
                runs.append(run)
                leave()

            self.samples(site, stop)
        if not runs:
            raise PipelineError(f"{type(self.pipe).__name__}: a call of it did not call its transformer")
        return runs[0]


class Noted(StepCache):
    """Hands everything to a recorder, and notes which cells it saw, as numbers over places and their outputs."""

    def __init__(self, recorder: StepCache, outputs: int) -> None:
        super().__init__(recorder.site)
        self.recorder, self.outputs = recorder, outputs
        self.cells: set[int] = set()
        self.steps: set[int] = set()

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self.steps.add(step)
        self.recorder.begin_step(step)

    def decide(self, seen: Seen) -> None:
        self.recorder.decide(seen)

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        self.cells.add(block * self.outputs + branch)
        self.recorder.store(block, branch, feature)


@dataclass(frozen=True)
class Measuring(PipelineCall):
    """`goc.planning.planner.Measurements` of a pipeline, by a trial's calls without a cache."""

    trial: Trial

    def seen(self, site: str, make: Callable[[Run], StepCache]) -> list[Noted]:
        """Recorders that saw all prompts' uncached calls, one for each of a step's calls of the transformer.

        Calls that are not made in every step have none.
        """
        recorders: dict[str, Noted] = {}

        def recorder(run: Run) -> Noted:
            if run.stream not in recorders:
                recorders[run.stream] = Noted(make(run), run.layout.shape(run.steps)[-1])
            return recorders[run.stream]

        self.trial.samples(site, recorder)
        return [noted for noted in recorders.values() if len(noted.steps) == self.run.steps]

    def branch_errors(self, lookahead: int) -> Tensor:
        """SmoothCache's calibration, [steps, lookahead, 2]."""
        errors, layout = list[Tensor](), self.trial.probe("branch").layout
        for seen in self.seen("branch", lambda run: ErrorRecorder(run.layout.shape(run.steps), lookahead, run.device)):
            recorder = seen.recorder
            assert isinstance(recorder, ErrorRecorder)
            difference, size, columns = recorder.difference, recorder.size, []
            for column in range(BRANCHES):
                cells = [c for c in sorted(seen.cells) if column in layout.places[c // seen.outputs].branches]
                recorder.difference, recorder.size = of_cells(difference, cells), of_cells(size, cells)
                columns.append(recorder.errors())
            errors.append(torch.cat(columns, dim=2))
        return torch.stack(errors).mean(dim=0)

    def input_changes(self) -> Tensor:
        """TeaCache's calibration, [steps]."""
        recorders = [seen.recorder for seen in self.seen("branch", lambda run: InputChangeRecorder(run.steps))]
        return torch.stack([r.changes() for r in recorders if isinstance(r, InputChangeRecorder)]).mean(dim=0)

    def magnitude_ratios(self) -> Tensor:
        """MagCache's calibration, [steps]: of what the last blocks add to the hidden states."""
        ratios = []
        for seen in self.seen("stack", lambda run: MagnitudeRecorders(run)):
            assert isinstance(seen.recorder, MagnitudeRecorders)
            ratios.append(seen.recorder.recorders[max(seen.recorder.recorders)].ratios())
        return torch.stack(ratios).mean(dim=0)

    def _of_cells(self, kind: type[CellRecorder], result: Callable[[CellRecorder], Tensor]) -> tuple[Tensor, list[int]]:
        """What recorders that keep sums by cell give, [streams, ..., cells, 1], and the cells that were seen."""
        shape, cells, results = self.run.layout.shape(self.run.steps), list[int](), list[Tensor]()
        for seen in self.seen(self.way.site, lambda run: kind(shape, run.layout.site, run.device)):
            recorder, cells = seen.recorder, sorted(seen.cells)
            assert isinstance(recorder, kind)
            for name, sums in vars(recorder).items():
                if isinstance(sums, Tensor):
                    setattr(recorder, name, of_cells(sums, cells))
            results.append(result(recorder))
        return torch.stack(results), cells

    @cached_property
    def _products(self) -> tuple[Tensor, list[int]]:
        products, cells = self._of_cells(ProductRecorder, ProductRecorder.products)
        return products.sum(dim=0), cells

    @cached_property
    def _alignment(self) -> tuple[Tensor, list[int]]:
        alignment, cells = self._of_cells(AlignmentRecorder, AlignmentRecorder.alignment)
        return alignment.mean(dim=0), cells

    def products(self) -> tuple[Tensor, Cells]:
        return self._products

    def alignment(self) -> tuple[Tensor, Cells]:
        return self._alignment

    def search(self, plan_of: Callable[[Steps], Plan], asked: Search) -> Steps:
        trial = replace(self.trial, prompts=self.trial.prompts[: asked.samples])
        target, seed = trial.samples(), self.trial.seed

        def distance(schedule: Steps, indices: range, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            plan, some = plan_of(schedule), trial.some(indices)
            made = some.samples(self.way.site, planned(lambda _: plan), self.way.selection.selects)
            return loss(torch.cat(made), torch.cat(target[indices.start : indices.stop]))

        if asked.how == HALVING:
            spent = len(self.trial.prompts) * self.steps
            budget = budget_of(len(target), asked.evaluations, spent, asked.computed)

            def measure(schedule: Steps, indices: range) -> list[float]:
                return [*map(kept, distance(schedule, indices, relative_distances).tolist())]

            return raced(measure, len(target), budget, asked.known, self.steps, asked.computed, seed).ranked()[0]
        moves, loss = moves_and_loss(asked.how)
        with progress_bar(asked.computed, self.steps, asked.evaluations, "schedule") as progress:

            def objective(schedule: Steps) -> float:
                value = distance(schedule, range(len(target)), loss).item()
                progress.update()
                return value if math.isfinite(value) else math.inf

            return moves(objective, self.steps, asked.computed, asked.evaluations, seed)[0]


class MagnitudeRecorders(StepCache):
    """A MagnitudeRecorder for the hidden states of each place."""

    def __init__(self, run: Run) -> None:
        super().__init__("stack")
        self.run = run
        self.recorders: dict[int, MagnitudeRecorder] = {}

    def store(self, block: int, branch: int, feature: Tensor) -> None:
        if branch == 0:
            recorder = self.recorders.setdefault(block, MagnitudeRecorder(self.run.steps))
            recorder.begin_step(self.step)
            recorder.store(0, 0, feature)
