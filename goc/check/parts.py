"""The parts of goc check, in their order."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from goc.check import graphs, kernels, oracles, pipeline, step_profile, steps, training, transformer_steps, workers
from goc.check.setting import Case, Part, Setting


def parts_of(setting: Setting, folders: Sequence[Path]) -> list[Part]:
    """All parts, the most telling first, as time may run out; folders: of the oracles."""
    telling, others = setting.cases[:2], setting.cases[2:]
    return [
        Part("oracles", 75, partial(oracles.check, setting, folders)),
        Part("kernels", 60, partial(kernels.check, setting)),
        Part("workers", 90, partial(workers.check, setting)),
        Part("graphs", 60, partial(graphs.check, setting)),
        Part("training", 75, partial(training.check, setting)),
        *(_steps(setting, case) for case in telling),
        Part("profile", 120, partial(step_profile.check, setting)),
        Part("transformers", 90, partial(transformer_steps.check, setting)),
        Part("pipeline", 100, partial(pipeline.check, setting)),
        *(_steps(setting, case) for case in others),
    ]


def _steps(setting: Setting, case: Case) -> Part:
    return Part(case.name, 120 if case.compiled else 75, partial(steps.check, setting, case))
